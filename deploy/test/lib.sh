# Shared by the test scripts, which run with bash on any machine with Docker and Python 3.11.
# TIDEMILL_RIG names a folder whose docker-up starts an engine and substitutes for base images, for
# machines without Docker or a registry. If it is not set, Docker is used.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
export COMPOSE_PROJECT_NAME=tidemill-test COMPOSE_PROFILES=demo
export HTTP_PORT=${HTTP_PORT:-28080} HTTPS_PORT=${HTTPS_PORT:-28443} API_PORT=${API_PORT:-28000}
export MLFLOW_PORT=${MLFLOW_PORT:-25000} PROMETHEUS_PORT=${PROMETHEUS_PORT:-29090}
export GRAFANA_PORT=${GRAFANA_PORT:-23000}
export TIDEMILL_SERVE_IMAGE=tidemill-serve:test TIDEMILL_PLATFORM_IMAGE=tidemill-platform:test
export TIDEMILL_MLFLOW_IMAGE=tidemill-mlflow:test
site=https://localhost:$HTTPS_PORT
scratch=$(mktemp -d)
files=(-f deploy/compose.yaml)
if [ -n "${TIDEMILL_RIG:-}" ]; then
    eval "$("$TIDEMILL_RIG/docker-up")"
    files+=(-f deploy/test/rig.yaml)
fi

say() { printf '\n== %s (%s s)\n' "$1" "$SECONDS"; }
die() { printf 'FAILED: %s\n' "$1" >&2; exit 1; }
compose() { docker compose "${files[@]}" "$@"; }
up() { compose up -d --wait --no-build "$@" >"$scratch/up.log" 2>&1 || { tail -30 "$scratch/up.log"; compose ps -a; compose logs --tail 30; die "compose up"; }; }
# Build the three images, and on a rig also the proxy.
build() {
    if [ -n "${TIDEMILL_RIG:-}" ]; then
        docker build -q --build-arg VERSION="$(sed -n 's/.*image: caddy://p' deploy/compose.yaml)" -t tidemill-test-caddy - <deploy/test/rig.Dockerfile >/dev/null
        docker build -q --target blackbox -t tidemill-test-blackbox - <deploy/test/rig.Dockerfile >/dev/null
    fi
    for target in serve platform mlflow; do DOCKER_BUILDKIT=1 docker build -q -f deploy/Dockerfile --target $target --build-arg VERSION="${1:-test}" -t "tidemill-$target:${1:-test}" . >/dev/null; done
}
ask() { curl -sk --max-time 60 -H "X-API-Key: $(cat deploy/secrets/first_key)" -H 'Content-Type: application/json' "$@"; }
field() { python3 -c 'import json,sys
value = json.load(sys.stdin)
for name in sys.argv[1].split("."): value = value[int(name) if name.isdigit() else name]
print(value)' "$1"; }

# Wait until a command succeeds: eventually SECONDS COMMAND...
eventually() {
    local until=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do [ $SECONDS -lt $until ] || die "waited in vain for: $*"; sleep 0.5; done
}

# Send one prediction over TLS.
predict() {
    ask -fsS "$site/schema" | python3 -c 'import json,sys; print(json.dumps(next(iter(json.load(sys.stdin)["examples"].values()))))' >"$scratch/body"
    ask -fsS "$site/predict" -d @"$scratch/body"
}

# Background load: begin_load NAME [URL]; end_load NAME prints the counts and fails if it failed.
begin_load() {
    python3 deploy/test/load.py "${2:-$site}" deploy/secrets/first_key "$scratch/$1" 4 & echo $! >"$scratch/$1.pid"
    eventually 60 test -e "$scratch/$1.started"
}
end_load() {
    kill -TERM "$(cat "$scratch/$1.pid")"; wait "$(cat "$scratch/$1.pid")"
    printf '%s: ' "$1"; cat "$scratch/$1"; echo
    [ "${2:-}" = reported ] || [ "$(field failed <"$scratch/$1")" = 0 ] || die "requests failed during $1"
}
