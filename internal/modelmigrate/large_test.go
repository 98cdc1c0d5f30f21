package modelmigrate_test

import (
	"bufio"
	"encoding/binary"
	"fmt"
	"math"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/rowcast/rowcast/internal/modelmigrate"
)

// field appends a length-delimited field.
func field(to []byte, number protowire.Number, value []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(to, number, protowire.BytesType), value)
}

func text(to []byte, number protowire.Number, value string) []byte {
	return field(to, number, []byte(value))
}

func integer(to []byte, number protowire.Number, value uint64) []byte {
	return protowire.AppendVarint(protowire.AppendTag(to, number, protowire.VarintType), value)
}

// node is a NodeProto.
func node(op, output string, attribute []byte, inputs ...string) []byte {
	var n []byte
	for _, i := range inputs {
		n = text(n, 1, i)
	}
	n = text(text(n, 2, output), 4, op)
	if attribute != nil {
		n = field(n, 5, attribute)
	}
	return n
}

// port is a ValueInfoProto of floats [N, width].
func port(name string, width uint64) []byte {
	shape := field(field(nil, 1, text(nil, 2, "N")), 1, integer(nil, 1, width))
	return field(text(nil, 1, name), 2, field(nil, 1, field(integer(nil, 1, 1), 2, shape)))
}

// tensor is a TensorProto of floats without its data, which raw_data (field 9) of the given length follows.
func tensor(name string, bytes int64, dims ...uint64) []byte {
	var t []byte
	for _, d := range dims {
		t = integer(t, 1, d)
	}
	t = text(integer(t, 2, 1), 8, name)
	return protowire.AppendVarint(protowire.AppendTag(t, 9, protowire.BytesType), uint64(bytes))
}

// writeLarge writes an ONNX file with a table of so many random floats, of which each row looks up four and adds them up.
func writeLarge(t *testing.T, path string, floats int64) {
	t.Helper()
	size := floats * 4
	weights := binary.LittleEndian.AppendUint32(nil, math.Float32bits(1))
	weights = append(append(weights, weights...), append(weights, weights...)...)
	toInt64 := integer(integer(text(nil, 1, "to"), 3, 7), 20, 2)
	var graph []byte
	for _, n := range [][]byte{
		node("Cast", "rows", toInt64, "X"), node("Gather", "found", nil, "table", "rows"), node("MatMul", "variable", nil, "found", "weights"),
	} {
		graph = field(graph, 1, n)
	}
	graph = text(graph, 2, "large")
	graph = field(graph, 5, append(tensor("weights", 16, 4, 1), weights...))
	graph = field(graph, 11, port("X", 4))
	graph = field(graph, 12, port("variable", 1))
	head := tensor("table", size, uint64(floats))
	graph = protowire.AppendVarint(protowire.AppendTag(graph, 5, protowire.BytesType), uint64(len(head))+uint64(size))
	graph = append(graph, head...)

	model := field(integer(nil, 1, 8), 8, integer(nil, 2, 17))
	model = protowire.AppendVarint(protowire.AppendTag(model, 7, protowire.BytesType), uint64(len(graph))+uint64(size))
	file, err := os.Create(path)
	require.NoError(t, err)
	w := bufio.NewWriterSize(file, 1<<20)
	_, err = w.Write(append(model, graph...))
	require.NoError(t, err)
	random := rand.NewPCG(1, 2)
	block := make([]byte, 0, 1<<20)
	for left := floats; left > 0; left -= int64(len(block) / 4) {
		block = block[:0]
		for range min(left, 1<<17) {
			// 23 random bits behind the exponent of one half.
			block = binary.LittleEndian.AppendUint32(block, uint32(random.Uint64())&0x7fffff|0x3f000000)
		}
		_, err = w.Write(block)
		require.NoError(t, err)
	}
	require.NoError(t, w.Flush())
	require.NoError(t, file.Close())
}

// peak is the most memory that a finished process had, in MiB. Linux counts in what this process had when it started the other: it must stay small.
func peak(cmd *exec.Cmd) int64 { return cmd.ProcessState.SysUsage().(*syscall.Rusage).Maxrss >> 10 }

// A large artifact uploads, resumes after a kill and registers, and the program that does it needs no more memory for it than for a small one.
// ROWCAST_LARGE=1 makes it 1 GB; `make test-large`.
func TestALargeArtifactUploadsResumesAndRegistersWithFlatMemory(t *testing.T) {
	megabytes := int64(96)
	if os.Getenv("ROWCAST_LARGE") != "" {
		megabytes = 1000
	}
	s := serve(t, "ROWCAST_VALIDATE_TIME=4m")
	conn := s.Conn(t)
	folder := t.TempDir()
	small, large := filepath.Join(folder, "small.onnx"), filepath.Join(folder, "large.onnx")
	writeLarge(t, small, 1<<20)
	writeLarge(t, large, megabytes*250_000)
	upload := program(s.URL, "model", "upload", small)
	out, err := upload.CombinedOutput()
	require.NoError(t, err, "%s", out)
	base := peak(upload)

	dir := filepath.Join(folder, "models")
	sha := fileSHA(t, large)
	cmd := program(s.URL, "model", "migration", "new", "large", "--file", large, "--dir", dir)
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Less(t, peak(cmd), base+32, "new: MiB")
	require.FileExists(t, filepath.Join(dir, modelmigrate.ArtifactDir, "large-"+sha[:12]+".onnx"))

	const stored = "SELECT count(*)::integer FROM ml_private.artifact_chunk WHERE sha256 = decode($1, 'hex')"
	up := func() *exec.Cmd { return program(s.URL, "model", "migration", "up", "--dir", dir) }
	start := time.Now()
	cmd = up()
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return one[int](t, conn, stored, sha) >= int(megabytes/4) }, time.Minute, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	sent := one[int](t, conn, stored, sha)
	require.Less(t, sent, int(megabytes*9/10), "it was killed in the middle")
	killed := time.Since(start)
	const marks = "SELECT md5(string_agg(ctid::text || xmin::text, ' ' ORDER BY number)) FROM ml_private.artifact_chunk WHERE sha256 = decode($1, 'hex') AND number < $2"
	before := one[string](t, conn, marks, sha, sent)

	start = time.Now()
	cmd = up()
	out, err = cmd.CombinedOutput()
	require.NoError(t, err, "%s", out)
	require.Contains(t, string(out), "1/u large")
	require.Equal(t, before, one[string](t, conn, marks, sha, sent), "what was there was not sent again")
	require.Less(t, peak(cmd), base+32, "up: MiB")
	t.Logf("%d MB: killed after %s with %d of %d chunks stored; the rest and the registration took %s; peak memory %d MiB, for 4 MB it was %d MiB; sidecar's worker %d MiB",
		megabytes, killed.Round(time.Millisecond), sent, one[int](t, conn, stored, sha), time.Since(start).Round(time.Millisecond), peak(cmd), base, s.workerPeak(t))
	require.Greater(t, one[float64](t, conn, "SELECT predict('large', '{1,2,3,4}')"), 0.0)
	start = time.Now()
	s.down(t, dir, -1)
	s.up(t, dir, -1)
	t.Logf("down and up again, without an upload: %s", time.Since(start).Round(time.Millisecond))
}

// workerPeak is the most memory that the sidecar's worker has had, in MiB.
func (s *site) workerPeak(t *testing.T) int64 {
	t.Helper()
	children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%d/children", s.pid, s.pid))
	require.NoError(t, err)
	var most int64
	for _, child := range strings.Fields(string(children)) {
		status, err := os.ReadFile("/proc/" + child + "/status")
		require.NoError(t, err)
		for line := range strings.Lines(string(status)) {
			if value, ok := strings.CutPrefix(line, "VmHWM:"); ok {
				kb, err := strconv.ParseInt(strings.Fields(value)[0], 10, 64)
				require.NoError(t, err)
				most = max(most, kb>>10)
			}
		}
	}
	return most
}
