#!/bin/bash
# Fuzzes each target for some time. Usage: fuzz/run.sh [SECONDS PER TARGET] [TARGET...]
# Exits with 1 when an input broke a promise; it is then in fuzz/artifacts/TARGET/.
set -uo pipefail
cd "$(dirname "$0")" || exit 1

VERSION=0.13.2
seconds=${1:-60}
shift || true

if ! [[ $seconds =~ ^[1-9][0-9]*$ ]]; then
  echo "usage: fuzz/run.sh [SECONDS PER TARGET] [TARGET...]" >&2
  exit 2
fi
if ! cargo fuzz --version >/dev/null 2>&1; then
  echo "== installing cargo-fuzz $VERSION"
  cargo install --locked --quiet "cargo-fuzz@$VERSION" || exit 1
fi

# Sanitizers and coverage are unstable options. Nightly has both; stable takes the coverage when told to.
if cargo +nightly --version >/dev/null 2>&1; then
  toolchain=+nightly sanitizer=address
else
  toolchain=+stable sanitizer=none
  export RUSTC_BOOTSTRAP=1
fi
echo "== $(cargo "$toolchain" --version), sanitizer: $sanitizer"

targets=("$@")
if [ ${#targets[@]} = 0 ]; then
  mapfile -t targets < <(sed -nE 's/^name = "([a-z_]+)"$/\1/p' Cargo.toml)
fi
cargo "$toolchain" fuzz build --fuzz-dir . --sanitizer "$sanitizer" || exit 1

broken=()
for target in "${targets[@]}"; do
  seeds=../tests/fuzz-corpus/corpus/$target
  [ "$target" = envelope ] && seeds=../tests/fuzz-corpus/corpus/messages
  mkdir -p "corpus/$target"
  echo "== $target, $seconds s"
  log=$(mktemp)
  if cargo "$toolchain" fuzz run --fuzz-dir . --sanitizer "$sanitizer" "$target" "corpus/$target" "$seeds" -- \
    "-max_total_time=$seconds" -max_len=20000 -timeout=10 -rss_limit_mb=2048 -print_final_stats=1 \
    -dict=json.dict -verbosity=0 >"$log" 2>&1; then
    grep -E 'stat::(number_of_executed_units|peak_rss_mb|slowest_unit_time_sec)' "$log" | sed 's/^stat:://'
  else
    tail -40 "$log"
    broken+=("$target")
  fi
  rm -f "$log"
done
if [ ${#broken[@]} != 0 ]; then
  echo "broken: ${broken[*]}"
  exit 1
fi
echo "${#targets[@]} targets fuzzed, nothing found"
