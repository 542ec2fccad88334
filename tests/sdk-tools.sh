#!/bin/bash
# Puts the official command-line tools into a Python environment of their own, for the tests that drive our Units
# and our cloud with them: target/sdk, or the folder given. Versions are fixed; nothing else is changed.
set -euo pipefail
cd "$(dirname "$0")/.."

dir=${1:-target/sdk}
tools=(aos-keys==1.10.1 aos-prov==5.5.0)
mark=$dir/installed
want="${tools[*]}"

if [ -e "$mark" ] && [ "$(cat "$mark")" = "$want" ]; then
  exit 0
fi
fail() { echo "sdk tools: $*" >&2; exit 1; }
command -v python3 >/dev/null || fail "python3 is missing; run \`make setup\`"
echo "sdk tools: installing ${tools[*]} into $dir"
rm -rf "$dir"
python3 -m venv "$dir" || fail "python3 cannot make an environment; install python3-venv (\`make setup\` does)"
"$dir/bin/pip" install --quiet --disable-pip-version-check "${tools[@]}" || fail "pip could not install ${tools[*]}"
echo "$want" > "$mark"
