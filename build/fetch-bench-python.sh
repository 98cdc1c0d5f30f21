#!/usr/bin/env bash
# Makes .cache/bench-python, a Python environment with what ../shared/bench/python_batch.py imports: psycopg, numpy, onnxruntime, pandas, sqlalchemy.
# The versions and their SHA-256 are pinned in bench-requirements.txt. Does nothing where it is there already. Prints the interpreter's path.
set -euo pipefail
. "$(dirname "$0")/say.sh"

requirements=$root/build/bench-requirements.txt
home=$cache/bench-python
stamp=$home/requirements.sha256
wanted=$(sha256sum "$requirements" | cut -d' ' -f1)
if [ "$(cat "$stamp" 2>/dev/null || true)" = "$wanted" ]; then
	echo "$home/bin/python"
	exit 0
fi

scratch
find_pip
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' || die "Python 3.11 or newer is needed for the Python side of the benchmark"
say "downloading psycopg, numpy, onnxruntime, pandas and sqlalchemy (75 MB, with pip, pinned by SHA-256) into .cache/bench-python"
rm -rf "$home"
"$python" -m venv --without-pip "$home"
# The new environment has no pip of its own: Debian's Python lacks what brings one.
"${pip[@]}" --python "$home/bin/python" install --quiet --disable-pip-version-check --no-input --no-cache-dir --only-binary=:all: --require-hashes \
	--requirement "$requirements" >"$tmp/pip.log" 2>&1 </dev/null || {
	tail -n 8 "$tmp/pip.log" >&2
	rm -rf "$home"
	die "pip could not install what the Python side of the benchmark needs"
}
echo "$wanted" >"$stamp"
echo "$home/bin/python"
