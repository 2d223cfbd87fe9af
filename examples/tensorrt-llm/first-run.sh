#!/usr/bin/env bash
# The first run of costtrace with a real TensorRT-LLM, in one go: docs/tensorrt-llm.md explains each step.
# It serves MODEL on GPU 0, sends a few requests, and packs a report. Nobody has run it yet: please send what it packs.
set -euo pipefail

MODEL=${1:?usage: first-run.sh MODEL, e.g. Qwen/Qwen3-0.6B}
PORT=${PORT:-8000}
OUT=${OUT:-$PWD/costtrace-first-run}
export TRTLLM_COSTTRACE_ENABLED=1
export COSTTRACE_HOME="$OUT/home"
mkdir -p "$OUT"
server=

stop_server() {
  [ -z "$server" ] || kill "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" 2>/dev/null || true
  server=
}
trap stop_server EXIT

echo "== 1 what fits"
costtrace doctor --engine tensorrt-llm | tee "$OUT/doctor.txt" || true

echo "== 2 serve"
trtllm-serve "$MODEL" --host 127.0.0.1 --port "$PORT" >"$OUT/server.log" 2>&1 &
server=$!
for _ in $(seq 600); do
  curl -fs "http://127.0.0.1:$PORT/health" >/dev/null 2>&1 && break
  kill -0 "$server" 2>/dev/null || { tail -n 30 "$OUT/server.log"; echo "the server has ended"; exit 1; }
  sleep 1
done

echo "== 3 ask, as two tenants, some at the same time"
ask() {
  curl -fs "http://127.0.0.1:$PORT/v1/completions" -H 'content-type: application/json' -H "x-costtrace-tenant: $1" \
    -d "{\"model\": \"$MODEL\", \"prompt\": \"Count to one hundred.\", \"max_tokens\": $2}" -o /dev/null
}
asked=()
for n in 16 64 128; do
  for tenant in acme globex; do
    ask "$tenant" "$n" &
    asked+=($!)
  done
done
for one in "${asked[@]}"; do wait "$one"; done

echo "== 4 stop, and let the agent book what is left"
stop_server
sleep 20

echo "== 5 the bill, and whether it adds up"
costtrace report --by tenant | tee "$OUT/report.txt"
costtrace verify | tee "$OUT/verify.txt" || true

echo "== 6 pack"
costtrace-trtllm-report --home "$COSTTRACE_HOME" --out "$OUT/costtrace-trtllm-report.tar.gz" --measure-events
