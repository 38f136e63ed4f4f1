#!/usr/bin/env bash
# Build the images, start the suite of docker-compose.yml and use it as a user would, over TLS and with the first token:
#   .ci/containers.sh
# Needs a running Docker engine with buildx and compose, `make setup`, and where no image registry can be reached root,
# debootstrap and Debian's packages. Everything that it makes is named finetree-check and removed at the end.
#   WHEELS=FOLDER   a folder with torch's CPU wheel, where PyTorch's index cannot be reached: the one that .venv was
#                   made with, and the trainer's image gets its Python
#   BUILD_CA=FILE   authorities to trust while building   [SSL_CERT_FILE]
#   KEEP=1          leave the images; BUILD=0 then takes them as they are
#   TWICE=0         do not build everything a second time, without a cache, to compare
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

started=$SECONDS
work=$(mktemp -d)
finetree=$PWD/.venv/bin/finetree python=$PWD/.venv/bin/python
names=(estimator recommender trainer console init)
compose=(docker compose --project-name finetree-check --file docker-compose.yml --file "$work/check.yml")

say() { printf 'containers: [%4d s, load %s] %s\n' $((SECONDS - started)) "$(cut -d' ' -f1 /proc/loadavg)" "$*"; }
fail() { say "FAILED: $*" >&2; exit 1; }
# refused WORD COMMAND...: the command must fail, and say WORD.
refused() {
  local word=$1
  shift
  if "$@" >"$work/refused" 2>&1; then fail "not refused: $*"; fi
  grep -q "$word" "$work/refused" || { cat "$work/refused" >&2; fail "refused without the word $word: $*"; }
}
image() { "${compose[@]}" config --format json | "$python" -c 'import json, sys; print(json.load(sys.stdin)["services"][sys.argv[1]]["image"])' "$1"; }
identity() { docker image inspect --format '{{.Id}}' "$(image "$1")"; }
inside() { "${compose[@]}" exec -T "$@"; }

clean_up() {
  status=$?
  if [ "$status" -ne 0 ]; then "${compose[@]}" logs --tail 30 >&2 || true; fi
  "${compose[@]}" --profile tools down --volumes --remove-orphans >/dev/null 2>&1 || true
  if [ "${KEEP:-0}" != 1 ]; then
    docker image ls --quiet 'finetree-check/*' | sort -u | xargs --no-run-if-empty docker image rm --force >/dev/null || true
  fi
  rm -rf "$work"
  [ "$status" -eq 0 ] || say "FAILED" >&2
}
trap clean_up EXIT

# ------------------------------------------------------------------------------------------------------- base images

base=$(sed -nE 's/^ARG PYTHON_IMAGE=(.+)$/\1/p' services/Dockerfile)
# made TAG [PREFIX]: make a base image unless it is there.
made() {
  docker image inspect "$1" >/dev/null 2>&1 || { say "making $1 from Debian's packages"; .ci/base_image.sh trixie "$@" >/dev/null; }
}
if docker pull --quiet "$base" >"$work/pull" 2>&1; then
  say "base image: $base"
else
  say "no registry: $(tail -1 "$work/pull")"
  base="finetree-check-base/python:3.13-slim-trixie"
  made "$base"
fi
trainer_base=$base
if [ -n "${WHEELS:-}" ]; then
  # The wheel is for the Python of .venv, which `make setup` has installed it with.
  trainer_base="finetree-check-base/python:of-this-machine"
  made "$trainer_base" "$("$python" -c 'import sys; print(sys.base_prefix)')"
fi

{
  echo "services:"
  for name in "${names[@]}"; do
    own=$base
    [ "$name" != trainer ] || own=$trainer_base
    echo "  $name:"
    echo "    image: finetree-check/$name"
    echo "    build:"
    echo "      args: {PYTHON_IMAGE: \"$own\"}"
    echo "      secrets: [ca]"
    [ -z "${WHEELS:-}" ] || echo "      additional_contexts: {wheels: \"$WHEELS\"}"
  done
  for name in login tokens; do echo "  $name: {image: finetree-check/init}"; done
  echo "secrets: {ca: {file: \"${BUILD_CA:-${SSL_CERT_FILE:-/dev/null}}\"}}"
} >"$work/check.yml"

# ------------------------------------------------------------------------------------------------------------- build

SOURCE_DATE_EPOCH=$(git log -1 --format=%ct)
FINETREE_REVISION=$(git rev-parse HEAD)
FINETREE_VERSION=$(sed -nE 's/^version = "(.*)"$/\1/p' protos/pyproject.toml)
export SOURCE_DATE_EPOCH FINETREE_REVISION FINETREE_VERSION

declare -A first=()
for name in "${names[@]}"; do
  [ "${BUILD:-1}" = 1 ] || { TWICE=0 && say "$name: as it is, $(identity "$name")" && continue; }
  before=$SECONDS
  "${compose[@]}" build --quiet "$name"
  first[$name]=$(identity "$name")
  size=$(docker image inspect --format '{{.Size}}' "$(image "$name")")
  say "built $name in $((SECONDS - before)) s: $((size / 1000000)) MB, ${first[$name]}"
done
if [ "${TWICE:-1}" = 1 ]; then
  for name in "${names[@]}"; do
    before=$SECONDS
    "${compose[@]}" build --quiet --no-cache "$name"
    [ "$(identity "$name")" = "${first[$name]}" ] || fail "$name: a second build gives $(identity "$name")"
    say "built $name again without a cache in $((SECONDS - before)) s: the same image"
  done
fi

# ------------------------------------------------------------------------------------------------------------- start

export FINETREE_RECOMMENDER_PORT=21051 FINETREE_ESTIMATOR_PORT=21052 FINETREE_TRAINER_PORT=21053 FINETREE_CONSOLE_PORT=21080
before=$SECONDS
"${compose[@]}" up --detach --wait --quiet-pull >"$work/up" 2>&1 || { cat "$work/up" >&2; fail "docker compose up"; }
say "all services healthy after $((SECONDS - before)) s"

# As docs/operations.md says, with other ports and a configuration of its own.
umask 077
export XDG_CONFIG_HOME=$work XDG_DATA_HOME=$work FINETREE_PROFILE=compose
"${compose[@]}" run --rm -T login ca >"$work/ca.pem" 2>"$work/login" || { cat "$work/login" >&2; fail "login ca"; }
"$finetree" profile set compose recommender_address=https://localhost:21051 estimator_address=https://localhost:21052 \
  trainer_address=https://localhost:21053 tls_ca="$work/ca.pem" >/dev/null
refused TOKEN_MISSING "$finetree" estimate --model smollm2-135m-instruct --method lora --gpu rtx-4090
refused TOKEN_MISSING "$finetree" recommend --model smollm2-135m-instruct --gpu rtx-4090
refused TOKEN_MISSING "$finetree" jobs list
refused 401 curl --silent --show-error --fail --cacert "$work/ca.pem" https://localhost:21080/trainer/v1/ListJobs
refused "" curl --silent --show-error --fail http://localhost:21080/trainer/v1/ListJobs
FINETREE_PROFILE="" refused TLS "$finetree" jobs list --trainer http://127.0.0.1:21053
say "refused: calls without a token, and in plain text"
"${compose[@]}" run --rm -T login token 2>"$work/login" | tee "$work/token" | "$finetree" login --profile compose --token-stdin
refused "was shown before" "${compose[@]}" run --rm -T login token
if "${compose[@]}" logs --no-color | grep -Eq 'ft_[0-9A-Za-z]{49}'; then fail "a token stands in the logs"; fi
say "logged in; the token is shown once and stands in no log"

# ---------------------------------------------------------------------------------------------------- how they run

for name in estimator recommender trainer console; do
  inside "$name" python - <<'PYTHON' || fail "$name: not confined"
import os
import pathlib

assert os.getuid() == os.getgid() == 10001, os.getuid()
status = pathlib.Path("/proc/self/status").read_text()
assert "CapEff:\t0000000000000000" in status and "NoNewPrivs:\t1" in status, status
for folder in ("/", "/opt/finetree", "/etc", "/etc/finetree/tls", "/usr/lib", "/run"):
    try:
        pathlib.Path(folder, "probe").write_text("")
    except (PermissionError, OSError):
        continue
    raise SystemExit(f"{folder} can be written")
for program in ("sh", "bash", "pip", "pip3", "uv", "gcc", "apt", "apt-get", "dpkg", "perl"):
    found = [folder for folder in ("/bin", "/usr/bin", "/usr/local/bin", "/opt/finetree/bin", "/sbin", "/usr/sbin")
             if pathlib.Path(folder, program).exists()]
    assert not found, (program, found)
assert not pathlib.Path("/etc/finetree/authority/ca.key").exists()
PYTHON
  id=$("${compose[@]}" ps --quiet "$name")
  [ "$(docker inspect --format '{{.HostConfig.ReadonlyRootfs}}' "$id")" = true ] || fail "$name: its root can be written"
done
say "each service: user 10001, no capability, a root that cannot be written, no shell, no key of the authority"

# --------------------------------------------------------------------------------------------------------------- use

"$finetree" estimate --model smollm2-135m-instruct --method lora --gpu rtx-4090 >"$work/estimate"
say "estimate: $(grep -m1 -i memory "$work/estimate")"
"$python" - "$work/train.jsonl" <<'PYTHON'
import json
import sys

with open(sys.argv[1], "w", encoding="utf-8") as file:
    for i in range(100):
        turns = [("user", f"What is {i} plus {i + 1}?"), ("assistant", f"{i} plus {i + 1} is {2 * i + 1}.")]
        file.write(json.dumps({"messages": [{"role": role, "content": text} for role, text in turns]}) + "\n")
PYTHON
"$finetree" recommend --model smollm2-135m-instruct --this-machine --data "$work/train.jsonl" --output "$work/job.yaml" >"$work/recommend"
sed -i -E 's/^(  epochs: )[0-9.]+/\10.24/' "$work/job.yaml" # a dozen steps
say "recommend: $(head -1 "$work/job.yaml" | cut -c1-100)"
curl --silent --show-error --fail --cacert "$work/ca.pem" --header @- https://localhost:21080/trainer/v1/ListJobs \
  <<<"Authorization: Bearer $(cat "$work/token")" >/dev/null
say "the console answers with the caller's token"

before=$SECONDS
"$finetree" train "$work/job.yaml" --detach >"$work/created" 2>&1 || { cat "$work/created" >&2; fail "finetree train"; }
job=$(sed -nE 's/^job (projects.*)$/\1/p' "$work/created")
[ -n "$job" ] || { cat "$work/created" >&2; fail "finetree train names no job"; }
say "the model is prepared and $job created after $((SECONDS - before)) s"
"$finetree" jobs watch "$job" --json >"$work/events" 2>"$work/watch.err" &
watch=$!
count() { grep -c "$1" "$work/events" || true; }
for _ in $(seq 900); do
  [ "$(count step_metrics)" -lt 3 ] || break
  kill -0 "$watch" 2>/dev/null || { cat "$work/watch.err" >&2; fail "the watch ended before step 3"; }
  sleep 1
done
[ "$(count step_metrics)" -ge 3 ] || fail "no three steps within 15 minutes"
say "training: three steps after $((SECONDS - before)) s; now the trainer is restarted"
stopping=$SECONDS
"${compose[@]}" restart trainer >/dev/null 2>&1
say "restarted in $((SECONDS - stopping)) s"
wait "$watch" || { tail -5 "$work/watch.err" >&2; fail "the watch did not end with a success"; }
grep -q WORKER_INTERRUPTED "$work/events" || fail "the worker did not save before its container ended"
"$python" - "$work/events" <<'PYTHON' || fail "the events have a gap"
import json
import sys

events = [json.loads(line) for line in open(sys.argv[1], encoding="utf-8")]
numbers = [int(event["seq"]) for event in events]
assert numbers == list(range(1, len(numbers) + 1)), numbers
steps = [(int(event["attempt"]), int(event["step_metrics"]["step"])) for event in events if "step_metrics" in event]
last = max(step for attempt, step in steps if attempt == 1)
assert min(step for attempt, step in steps if attempt == 2) == last + 1, steps
print(f"containers: {len(numbers)} events without a gap, steps 1 to {last} in the first attempt, {last + 1} to {steps[-1][1]} in the second")
PYTHON
say "trained in $((SECONDS - before)) s; one watch went on through the restart"

# ------------------------------------------------------------------------------------------------------- a later start

"${compose[@]}" up --detach --wait >"$work/up" 2>&1 || { cat "$work/up" >&2; fail "the second docker compose up"; }
"${compose[@]}" run --rm -T login ca 2>/dev/null | cmp - "$work/ca.pem" || fail "the authority is another one"
"$finetree" jobs list | grep -q -i succeeded || fail "the job is gone"
say "a second up made nothing anew"
token=$("${compose[@]}" run --rm -T tokens list --json 2>/dev/null |
  "$python" -c 'import json, sys; print(next(t["id"] for t in json.load(sys.stdin)["tokens"] if t["principal"] == "admin"))')
"${compose[@]}" run --rm -T tokens revoke "$token" >/dev/null 2>&1
refused TOKEN_REVOKED "$finetree" jobs list
say "a revoked token is refused by the next call"
before=$SECONDS
"${compose[@]}" --profile tools down --volumes >/dev/null 2>&1
say "down in $((SECONDS - before)) s; done"
