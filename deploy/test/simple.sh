#!/usr/bin/env bash
# Test compose.simple.yaml: a prediction, and the same version after `down` and `up`.
. "$(dirname "$0")/lib.sh"
files=(-f deploy/compose.simple.yaml)
site=http://127.0.0.1:$API_PORT
trap 'compose down -v -t 5 >/dev/null 2>&1 || true; rm -rf "$scratch"' EXIT

say "build"
build
deploy/make-secrets >/dev/null
compose down -v -t 5 >/dev/null 2>&1 || true
say "up, a prediction, a page of MLflow"
up
version=$(predict | field version)
curl -fs "http://127.0.0.1:$MLFLOW_PORT/health" >/dev/null
[ "$(curl -s -o /dev/null -w '%{http_code}' "$site/predict" -X POST -d '{}')" = 403 ] || die "no key was asked for"
say "down and up"
compose down -t 30 >/dev/null 2>&1
up
[ "$(predict | field version)" = "$version" ] || die "another version answers"
say "simple passed"
