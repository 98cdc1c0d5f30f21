#!/usr/bin/env bash
# Puts ONNX Runtime's shared library into .cache/onnxruntime, out of the Python wheel, with pip. Does nothing where it is there and right.
set -euo pipefail
. "$(dirname "$0")/say.sh"

version=1.32.0
case $(uname -sm) in
"Linux x86_64")
	platform=manylinux_2_28_x86_64
	sha256=6c1585d1bbf45b0712ea4a21b705c5fcb4ba04ff2e30f1fbf81a49faf658638f
	;;
"Linux aarch64")
	platform=manylinux_2_28_aarch64
	sha256=49852228a93995158b2a813d4df487d47a1b76b0eaa894507ef49e91b6d7954a
	;;
*) die "there is no ONNX Runtime for $(uname -sm) here; set ROWCAST_ONNXRUNTIME to a libonnxruntime.so $version" ;;
esac

library=$cache/onnxruntime/libonnxruntime.so.$version
if has_hash "$library" "$sha256"; then
	exit 0
fi

scratch
find_pip
say "downloading ONNX Runtime $version (the wheel onnxruntime, 27 MB, with pip)"
pip_wheel "onnxruntime==$version" "$platform" "$tmp" ||
	die "pip could not download onnxruntime $version; or put libonnxruntime.so.$version there yourself: $library"
unzip_member "$tmp"/onnxruntime-*.whl "onnxruntime/capi/libonnxruntime.so.$version" "$tmp/library"
verify "$tmp/library" "$sha256"
mkdir -p "$cache/onnxruntime"
chmod 755 "$tmp/library"
mv -f "$tmp/library" "$library"
say "ONNX Runtime $version is in .cache/onnxruntime, SHA-256 $sha256 verified"
