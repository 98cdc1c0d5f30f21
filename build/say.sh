# Sourced by the scripts beside it: how they speak, and where they may write. All they write lies in the project's .cache folder, packages of
# the system aside.
# shellcheck shell=bash

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=$root/.cache

# say prints one line on what is being done; it goes to standard error, so that a script's output stays its own.
say() { printf '%s\n' "rowcast: $*" >&2; }

# die says what is wrong and what to do, and ends the script.
die() {
	say "$@"
	exit 1
}

# scratch makes a temporary folder in the cache, removed when the script ends, and points the package clients' own files there.
scratch() {
	[ -z "${tmp:-}" ] || return 0
	{ mkdir -p "$cache" && [ -w "$cache" ]; } 2>/dev/null || die "cannot write to $cache, which belongs to $(stat -c %U "$cache" 2>/dev/null || echo somebody else)"
	tmp=$(mktemp -d "$cache/tmp.XXXXXX")
	trap 'rm -rf "$tmp"' EXIT
	export TMPDIR=$tmp XDG_CACHE_HOME=$tmp/xdg npm_config_cache=$tmp/npm npm_config_update_notifier=false
}

# verify FILE SHA256 fails unless the file has that hash.
verify() {
	local got
	got=$(sha256sum "$1" | cut -d' ' -f1)
	[ "$got" = "$2" ] || die "$(basename "$1") has SHA-256 $got, expected $2; not used"
}

# has_hash FILE SHA256 tells whether the file is there and right.
has_hash() { [ -f "$1" ] && [ "$(sha256sum "$1" | cut -d' ' -f1)" = "$2" ]; }

# can_apt tells whether packages of the system can be installed.
can_apt() { [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; }

# apt_install installs Debian packages, refreshing the lists first where they are missing or old.
apt_install() {
	say "installing with apt-get: $*"
	local log
	scratch
	log=$(mktemp "$tmp/apt.XXXXXX")
	export DEBIAN_FRONTEND=noninteractive
	apt-get install -y -q --no-install-recommends "$@" >"$log" 2>&1 </dev/null && return
	{ apt-get update -q && apt-get install -y -q --no-install-recommends "$@"; } >"$log" 2>&1 </dev/null && return
	tail -n 15 "$log" >&2
	return 1
}

# find_pip sets the array pip to a command that runs pip.
find_pip() {
	local candidate
	for candidate in python3 python; do
		if "$candidate" -m pip --version >/dev/null 2>&1; then
			pip=("$candidate" -m pip)
			python=$candidate
			return
		fi
	done
	if can_apt && apt_install python3-pip; then
		pip=(python3 -m pip)
		python=python3
		return
	fi
	if python3 -m venv "$tmp/venv" >/dev/null 2>&1; then
		pip=("$tmp/venv/bin/python" -m pip)
		python=$tmp/venv/bin/python
		return
	fi
	die "Python's pip is needed to fetch this. Install it (Debian: sudo apt-get install python3-pip, or python3-venv) and run again."
}

# pip_wheel REQUIREMENT PLATFORM FOLDER downloads one wheel with pip.
pip_wheel() {
	local log=$tmp/pip.log
	"${pip[@]}" download --quiet --disable-pip-version-check --no-input --no-deps --no-cache-dir --only-binary=:all: \
		--platform "$2" --python-version 3.12 --implementation cp --abi cp312 --abi none --dest "$3" "$1" >"$log" 2>&1 </dev/null && return
	tail -n 8 "$log" >&2
	return 1
}

# unzip_member ARCHIVE MEMBER FILE writes one member of a wheel, which is a zip archive, to a file.
unzip_member() {
	"$python" -c '
import shutil, sys, zipfile
with zipfile.ZipFile(sys.argv[1]) as z, z.open(sys.argv[2]) as member, open(sys.argv[3], "wb") as f:
    shutil.copyfileobj(member, f)' "$@"
}
