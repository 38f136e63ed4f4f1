# SPDX-License-Identifier: Apache-2.0
import pytest
from finetree_runtime.config.settings import SettingsError
from finetree_trainer.store.backends.url import DRIVER, named, parse, redacted


@pytest.mark.parametrize("scheme", ["postgresql+psycopg", "postgresql", "postgres"])
def test_every_name_of_the_one_driver_is_taken(scheme):
    assert parse(f" {scheme}://me@db.example:5433/jobs?service=x\n").drivername == DRIVER


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("sqlite:///trainer.db", "SQLite is embedded"),
        ("mysql://u:geheim@h/d", "'mysql' is not supported"),
        ("postgresql+asyncpg://u:geheim@h/d", "use postgresql+psycopg://"),
        ("postgresql://u:geheim@h:port/d", "it is not a URL"),
        ("geheim", "it is not a URL"),
        ("", "it is not a URL"),
    ],
)
def test_another_url_is_refused_and_not_repeated(url, words):
    with pytest.raises(SettingsError) as error:
        parse(url)
    assert error.value.reason == "DATABASE_URL_INVALID"
    assert words in str(error.value)
    assert "geheim" not in str(error.value)


@pytest.mark.parametrize(
    ("url", "name"),
    [
        ("postgresql://me:geheim@db.example:5433/jobs", "jobs on db.example:5433"),
        ("postgresql:///jobs?host=a&host=b&password=geheim", "jobs on a,b"),
        ("postgresql:///?service=finetree", "the default database on the default host"),
    ],
)
def test_a_database_is_named_by_its_place_alone(url, name):
    assert named(parse(url)) == name


def test_no_secret_of_a_url_is_left_in_a_text_of_the_driver():
    url = parse("postgresql://me:p%2Fa%20ss@h/d?sslpassword=other&scram_client_key=third")
    said = "bad p/a ss, p%2Fa%20ss, other and third"
    assert redacted(url, said) == "bad ***, ***, *** and ***"
    assert redacted(parse("postgresql://me@h/d"), said) == said
