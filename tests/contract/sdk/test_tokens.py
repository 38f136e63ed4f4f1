# SPDX-License-Identifier: Apache-2.0
"""Tokens that expire while a client lives: every kind of call continues with the new one, and a wrong one ends."""

import threading
from concurrent.futures import ThreadPoolExecutor

import finetree
import grpc
import pytest
from finetree.testing import Script, Suite


class Guard(grpc.GenericRpcHandler):
    """Refuses calls whose token is not the one that holds now, and counts them."""

    def __init__(self) -> None:
        self.token = "one"
        self.refused = 0

    def service(self, handler_call_details):
        sent = dict(handler_call_details.invocation_metadata).get("authorization")
        if sent == f"Bearer {self.token}":
            return None  # the next handler's
        self.refused += 1
        return grpc.stream_stream_rpc_method_handler(self.refuse)

    def refuse(self, _, context):
        context.abort(grpc.StatusCode.UNAUTHENTICATED, "the token has expired")
        yield


@pytest.fixture
def guarded(suite):
    """The suite behind a guard: the guard, and the address."""
    guard = Guard()
    pool = ThreadPoolExecutor(16)
    server = grpc.server(pool, [guard, suite._handlers])
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    yield guard, f"http://127.0.0.1:{port}"
    server.stop(0).wait()
    pool.shutdown()


class Issuer:
    """Issues the token that the guard wants now."""

    def __init__(self, guard) -> None:
        self.guard, self.calls = guard, 0

    def __call__(self) -> str:
        self.calls += 1
        return self.guard.token


class At:
    """What a driver makes clients of."""

    def __init__(self, address) -> None:
        self.address = address

    def client(self, **options: object):
        return finetree.Client(self.address, **options)

    def async_client(self, **options: object):
        return finetree.AsyncClient(self.address, **options)


@pytest.fixture
def rotating(do, guarded):
    """A client with an issuer, after its first call; then the token changes."""
    guard, address = guarded
    do.suite = At(address)
    issuer = Issuer(guard)
    client = do.client(token=issuer)
    do(client.list_methods())
    assert (issuer.calls, guard.refused) == (1, 0)
    return client, issuer, guard


def test_a_call_is_sent_again_with_the_new_token(do, rotating):
    client, issuer, guard = rotating
    guard.token = "two"
    assert len(do(client.list_methods())) == 5
    assert len(do(client.with_options(retries=0).list_methods())) == 5
    assert (issuer.calls, guard.refused) == (2, 1)


def test_an_upload_a_watch_and_a_download_continue(do, rotating, tmp_path, spec):
    client, issuer, guard = rotating
    guard.token = "two"
    assert do(client.upload_dataset(b'{"prompt": "a", "completion": "b"}\n')).name
    job = do(client.create_job(spec))
    # Each may read a token only some time after the last was refused: here no time passes, so this one is let be new.
    client.options.targets["trainer"].token._renewed_at = None
    guard.token = "three"
    assert [event.seq for event in do.all(job.events())][-1] == job_events(do, job)
    client.options.targets["trainer"].token._renewed_at = None
    guard.token = "four"
    assert do(job.download(tmp_path))
    assert guard.refused >= 3
    assert issuer.calls == 4


def job_events(do, job):
    return do(job.refresh()).last_seq


def test_a_watch_that_is_cut_attaches_again_with_the_new_token(do, suite, rotating, spec):
    client, _, guard = rotating
    suite.trainer.script = Script(steps=6)
    suite.trainer.disconnect_after(4)
    job = do(client.create_job(spec))
    stream = job.events()
    first = do.all(stream, limit=4)
    guard.token = "two"
    rest = do.all(stream)
    seqs = [event.seq for event in first + rest]
    assert seqs == list(range(1, len(seqs) + 1))
    assert rest[-1].HasField("terminal")
    assert guard.refused == 1


def test_a_wrong_token_is_refused_after_one_more_try(do, guarded):
    guard, address = guarded
    do.suite = At(address)
    wrong = iter(["wrong", "wrong-too", "never read"])
    with pytest.raises(finetree.Unauthenticated, match="the token has expired"):
        do(do.client(token=lambda: next(wrong)).list_methods())
    assert guard.refused == 2
    with pytest.raises(finetree.Unauthenticated):
        do(do.client(token="wrong").list_methods())
    assert guard.refused == 3, "a token that cannot change is not sent again"


def test_a_token_that_cannot_be_had_is_no_call(do, guarded):
    guard, address = guarded
    do.suite = At(address)
    with pytest.raises(finetree.Unauthenticated) as caught:
        do(do.client(token=lambda: "").list_methods())
    assert caught.value.reason == "TOKEN_UNAVAILABLE"
    assert guard.refused == 0


def test_many_threads_renew_once(guarded):
    guard, address = guarded
    issuer = Issuer(guard)
    with finetree.Client(address, token=issuer) as client, ThreadPoolExecutor(8) as pool:
        client.list_methods()
        guard.token = "two"
        together = threading.Barrier(8)

        def call() -> int:
            together.wait()
            return len(client.list_methods())

        assert list(pool.map(lambda _: call(), range(8))) == [5] * 8
    assert issuer.calls == 2


def test_entries_of_a_block_hold_and_are_not_renewed(guarded):
    guard, address = guarded
    issuer = Issuer(guard)
    with finetree.Client(address, token=issuer) as client:
        with finetree.call_metadata({"authorization": "Bearer theirs"}), pytest.raises(finetree.Unauthenticated):
            client.list_methods()
        assert (issuer.calls, guard.refused) == (0, 1)


def test_a_profile_that_is_changed_meanwhile_is_read_again(guarded, monkeypatch, tmp_path):
    guard, address = guarded
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    file = tmp_path / "finetree" / "config.toml"
    file.parent.mkdir()
    text = f'[profiles.default]\naddress = "{address}"\ntoken = "one"\n'
    file.write_text(text)
    with finetree.Client() as client:
        client.list_methods()
        guard.token = "two"
        file.write_text(text.replace("one", "two"))
        assert len(client.list_methods()) == 5


def test_suite_is_real(guarded, suite):
    """Without a token nothing gets through."""
    assert isinstance(suite, Suite)
    with finetree.Client(guarded[1]) as client, pytest.raises(finetree.Unauthenticated):
        client.list_methods()
