#!/usr/bin/env bash
# Checks that Go and a C compiler are there; as root it installs the compiler (ONNX Runtime's Go binding is a cgo package).
set -euo pipefail
. "$(dirname "$0")/say.sh"

needed=$(sed -n 's/^go \([0-9]*\.[0-9]*\).*/\1/p' "$root/go.mod")
command -v go >/dev/null || die "Go $needed or newer is needed, and there is no go on PATH."
have=$(go env GOVERSION | sed 's/^go//')
if [ "$(printf '%s\n%s\n' "$needed" "$have" | sort -V | head -n 1)" != "$needed" ] && [ "$(go env GOTOOLCHAIN)" = local ]; then
	die "Go $needed or newer is needed, this is $have."
fi
compiler=$(go env CC)
if ! command -v "${compiler%% *}" >/dev/null; then
	{ can_apt && apt_install gcc libc6-dev; } ||
		die "a C compiler is needed, and there is no $compiler on PATH (Debian: sudo apt-get install gcc libc6-dev)."
fi
