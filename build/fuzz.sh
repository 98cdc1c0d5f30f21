#!/usr/bin/env bash
# Runs every fuzz target of the module, one after another, for the given time each (10m). What it finds stays in the package's testdata/fuzz.
set -euo pipefail
. "$(dirname "$0")/say.sh"

time=${1:-10m}
cd "$root"
failed=0
while read -r package; do
	for target in $(go test -list '^Fuzz' "$package" | grep '^Fuzz' || true); do
		say "fuzzing $target in $package for $time"
		go test "$package" -run '^$' -fuzz "^$target\$" -fuzztime "$time" </dev/null || failed=1
	done
done < <(grep -rlE '^func Fuzz' --include='*_test.go' cmd internal 2>/dev/null | xargs -r -n 1 dirname | sort -u | sed 's|^|./|')
exit "$failed"
