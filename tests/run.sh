#!/bin/bash
# Runs all tests of the workspace and ends with the line `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.."

if [ "$(id -u)" != 0 ]; then
  echo "The tests make namespaces, cgroups and containers: run them as root." >&2
  exit 1
fi

mkdir -p target
log=target/test-output.log
if cargo nextest --version >/dev/null 2>&1; then
  cargo nextest run --locked --workspace --no-fail-fast --color never 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  # Summary [  12.3s] 120 tests run: 119 passed (1 slow), 1 failed, 0 skipped
  line=$(grep -E '^ *Summary \[' "$log" | tail -1)
  number() { sed -nE "s/.*[ :]([0-9]+) $1.*/\1/p" <<<"$line"; }
  passed=$(number passed) failed=$(number failed) timed=$(number 'timed out')
  failed=$(( ${failed:-0} + ${timed:-0} ))
  # Documentation examples are not nextest's business.
  cargo test --locked --workspace --doc --quiet >"$log.doc" 2>&1
  doc_status=$?
  [ $doc_status = 0 ] || { cat "$log.doc"; status=$doc_status; }
  cat "$log.doc" >> "$log"
else
  cargo test --locked --workspace --no-fail-fast 2>&1 | tee "$log"
  status=${PIPESTATUS[0]}
  passed=0 failed=0
fi
# test result: ok. 3 passed; 0 failed; 0 ignored; ...
read -r more_passed more_failed < <(awk '/^test result: /{for(i=1;i<=NF;i++){if($(i+1)=="passed;")p+=$i;if($(i+1)=="failed;")f+=$i}}END{print p+0,f+0}' "$log")
passed=$(( ${passed:-0} + more_passed ))
failed=$(( ${failed:-0} + more_failed ))
flaky=$(sed -nE 's/^ *FLAKY [^]]*\] *(\([^)]*\) *)?//p' "$log" | sort -u)
[ -z "$flaky" ] || printf 'Passed only at the second try (mend these):\n%s\n' "$flaky" >&2
if [ "$status" != 0 ] && [ "$failed" = 0 ]; then
  echo "The test run itself failed (exit status $status); see above." >&2
fi
echo "$passed passed, $failed failed"
exit "$status"
