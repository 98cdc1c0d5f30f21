package predict

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"strconv"

	"github.com/rowcast/rowcast/internal/rowcast"
	"github.com/rowcast/rowcast/internal/tensorjson"
)

// maxBatchRows bounds the rows of one call, whatever little room they take.
const maxBatchRows = 1 << 20

// batch answers VerbBatch. It takes en over.
//
//	FormatMatrix   an array literal of numbers, as predict answers each row
//	FormatShape    {"columns": [2, 3], "answer": "n"}: the positions, from 1, of the columns that the model reads, and the kind of its answers
//	FormatColumns  the kind, then an array literal, then, for text labels, a space and the labels that its numbers mean, from 1
//
// The kinds: v values of a regression, n classes that are numbers, t labels that are text. An error about a row has its number.
func (e *Engine) batch(ctx context.Context, en *entry, c *rowcast.Call, dst []byte) ([]byte, error) {
	switch c.Format {
	case rowcast.FormatMatrix:
		return e.batchMatrix(ctx, en, c, dst)
	case rowcast.FormatShape:
		return e.batchShape(en, c, dst)
	case rowcast.FormatColumns:
		return e.batchColumns(ctx, en, c, dst)
	}
	e.release(en)
	return dst, rowcast.Errorf(rowcast.CodeProtocol, "unknown format %q", c.Format)
}

// kind says what a row's answer is.
func (m *model) kind() byte {
	switch {
	case m.textLabels():
		return 't'
	case m.signature.Task == rowcast.TaskRegression:
		return 'v'
	}
	return 'n'
}

func (e *Engine) batchShape(en *entry, c *rowcast.Call, dst []byte) ([]byte, error) {
	var shape struct {
		Names []string `json:"names"`
		Types []uint32 `json:"types"`
	}
	if err := json.Unmarshal(c.Payload, &shape); err != nil || len(shape.Names) != len(shape.Types) {
		e.release(en)
		return dst, rowcast.Errorf(rowcast.CodeProtocol, "malformed shape of a batch").WithCause(err)
	}
	columns := make([]Column, len(shape.Names))
	for i := range columns {
		columns[i] = Column{Name: shape.Names[i], OID: shape.Types[i]}
	}
	f, err := e.frameOf(en, c, columns, 1)
	if err != nil {
		return dst, err
	}
	defer f.Close()
	dst = append(dst, `{"columns":[`...)
	for i := range f.sources {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = strconv.AppendInt(dst, int64(f.sources[i].column+1), 10)
	}
	return append(append(dst, `],"answer":"`...), f.model.kind(), '"', '}'), nil
}

// batchMatrix reads a two-dimensional array, the features of a row in each of its rows.
func (e *Engine) batchMatrix(ctx context.Context, en *entry, c *rowcast.Call, dst []byte) ([]byte, error) {
	a, err := decodeArray(c.Payload)
	if err == nil {
		err = checkMatrix(en.model, c, &a)
	}
	if err != nil || a.rank == 0 {
		e.release(en)
		return append(dst, "{}"...), err
	}
	columns := make([]Column, a.dims[1])
	for i := range columns {
		columns[i] = Column{Name: en.model.plan.features[i].name, OID: a.oid}
	}
	f, err := e.frameOf(en, c, columns, a.dims[0])
	if err != nil {
		return dst, err
	}
	defer f.Close()
	row := make([][]byte, len(columns))
	for range a.dims[0] {
		for i := range row {
			if row[i], err = a.next(); err != nil {
				return dst, err
			}
		}
		if err := f.Append(row); err != nil {
			return dst, atRow(err, f.Len())
		}
	}
	r, err := f.runWide(ctx)
	if err != nil {
		var row *RowError
		if errors.As(err, &row) {
			return dst, atRow(row.Err, row.Row)
		}
		return dst, err
	}
	return appendFloats(dst, r.Values), nil
}

func checkMatrix(m *model, c *rowcast.Call, a *binaryArray) error {
	call := *c
	call.Verb = rowcast.VerbPredict
	if err := m.refuse(&call); err != nil {
		return err
	}
	r := filler{plan: m.plan, call: c}
	switch {
	case m.plan.tensors:
		return r.fill()
	case a.rank == 0:
		return nil
	case a.rank != 2:
		return about(c, rowcast.CodeDimensions, "takes a two-dimensional array here, one row of %s in each of its rows, got %s",
			plural(len(m.plan.features), "feature"), plural(a.rank, "dimension")).
			WithDetail("%s The array has %s elements.", r.expected(), times(a.dims[:a.rank])).
			WithHint("Write ARRAY[[1, 2], [3, 4]], or call predict for a single row.")
	case a.oid != oidFloat8:
		return protocolFault("its elements are not double precision")
	}
	return r.checkArray(a.dims[1:2])
}

// batchColumns reads columns by name.
func (e *Engine) batchColumns(ctx context.Context, en *entry, c *rowcast.Call, dst []byte) ([]byte, error) {
	columns, arrays, rows, err := readColumns(c.Payload)
	if err != nil {
		e.release(en)
		return dst, err
	}
	f, err := e.frameOf(en, c, columns, rows)
	if err != nil {
		return dst, err
	}
	defer f.Close()
	row := make([][]byte, len(arrays))
	for range rows {
		for i := range arrays {
			if row[i], err = arrays[i].next(); err != nil {
				return dst, err
			}
		}
		if err := f.Append(row); err != nil {
			return dst, atRow(err, f.Len())
		}
	}
	r, err := f.runWide(ctx)
	if err != nil {
		var row *RowError
		if errors.As(err, &row) {
			return dst, atRow(row.Err, row.Row)
		}
		return dst, err
	}
	dst = append(dst, f.model.kind())
	if f.model.kind() != 't' {
		return appendFloats(dst, r.Values), nil
	}
	return appendLabels(dst, r.Labels), nil
}

// readColumns reads a payload of FormatColumns.
func readColumns(payload []byte) (columns []Column, arrays []binaryArray, rows int, err error) {
	head, body, found := bytes.Cut(payload, []byte{'\n'})
	count, list, spaced := bytes.Cut(head, []byte{' '})
	var names []string
	rows, badCount := strconv.Atoi(string(count))
	if !found || !spaced || badCount != nil || rows < 1 || rows > maxBatchRows || json.Unmarshal(list, &names) != nil {
		return nil, nil, 0, protocolFault("the head of a batch")
	}
	all, err := decodeArray(body)
	if err != nil {
		return nil, nil, 0, err
	}
	if all.rank > 1 || all.rank == 1 && all.oid != oidBytea || all.count() != len(names) {
		return nil, nil, 0, protocolFault("not one column for each name")
	}
	for _, name := range names {
		one, err := all.next()
		if err != nil {
			return nil, nil, 0, err
		}
		a, err := readBinaryArray(one)
		if err != nil {
			return nil, nil, 0, err
		}
		if a.rank != 1 || a.dims[0] != rows {
			return nil, nil, 0, protocolFault("a column of another number of rows")
		}
		columns, arrays = append(columns, Column{Name: name, OID: a.oid}), append(arrays, a)
	}
	return columns, arrays, rows, nil
}

// atRow says which row of a batch, counted from 0, an error is about.
func atRow(err error, row int) error {
	var e *rowcast.Error
	if !errors.As(err, &e) || e.Code == rowcast.CodeProtocol {
		return err
	}
	placed := *e
	placed.Row = row + 1
	return &placed
}

func appendFloats(dst []byte, values []float64) []byte {
	dst = append(dst, '{')
	for i, v := range values {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = tensorjson.AppendDecimal(dst, v, 64)
	}
	return append(dst, '}')
}

// appendLabels writes each row's label as its number, from 1, in the list that follows.
func appendLabels(dst []byte, labels []string) []byte {
	numbers := map[string]int{}
	var list []string
	dst = append(dst, '{')
	for i, l := range labels {
		if i > 0 {
			dst = append(dst, ',')
		}
		n := numbers[l]
		if n == 0 {
			list = append(list, l)
			n = len(list)
			numbers[l] = n
		}
		dst = strconv.AppendInt(dst, int64(n), 10)
	}
	dst = append(dst, "} {"...)
	for i, l := range list {
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '"')
		for _, b := range []byte(l) {
			if b == '"' || b == '\\' {
				dst = append(dst, '\\')
			}
			dst = append(dst, b)
		}
		dst = append(dst, '"')
	}
	return append(dst, '}')
}

const oidBytea = 17

// binaryArray is the output of array_send(): dimensions, null flag, element type, then per dimension its size and lower bound, then per element
// its length (-1 for NULL) and its bytes, all big-endian.
type binaryArray struct {
	oid      uint32
	dims     [6]int
	rank     int
	elements []byte
}

// decodeArray reads an array in base64.
func decodeArray(text []byte) (binaryArray, error) {
	raw := make([]byte, base64.StdEncoding.DecodedLen(len(text)))
	n, err := base64.StdEncoding.Decode(raw, text)
	if err != nil {
		return binaryArray{}, protocolFault("not base64")
	}
	return readBinaryArray(raw[:n])
}

func readBinaryArray(raw []byte) (a binaryArray, err error) {
	if len(raw) < 12 {
		return a, protocolFault("the header is cut short")
	}
	rank := binary.BigEndian.Uint32(raw)
	a.oid = binary.BigEndian.Uint32(raw[8:])
	raw = raw[12:]
	if rank > uint32(len(a.dims)) {
		return a, protocolFault("more than six dimensions")
	}
	a.rank = int(rank)
	count := 1
	for i := range a.rank {
		if len(raw) < 8 {
			return a, protocolFault("a dimension is cut short")
		}
		size := int(int32(binary.BigEndian.Uint32(raw)))
		raw = raw[8:]
		// Each element takes at least four bytes, so that a size can be bounded before it is multiplied.
		if size < 0 || size > len(raw) {
			return a, protocolFault("shorter than its dimensions say")
		}
		a.dims[i] = size
		if count *= size; 4*count > len(raw) {
			return a, protocolFault("shorter than its dimensions say")
		}
	}
	a.elements = raw
	return a, nil
}

// count is the number of elements.
func (a *binaryArray) count() int {
	if a.rank == 0 {
		return 0
	}
	n := 1
	for _, d := range a.dims[:a.rank] {
		n *= d
	}
	return n
}

// next returns the bytes of one element, nil for NULL.
func (a *binaryArray) next() ([]byte, error) {
	if len(a.elements) < 4 {
		return nil, protocolFault("an element is cut short")
	}
	size := int(int32(binary.BigEndian.Uint32(a.elements)))
	rest := a.elements[4:]
	switch {
	case size == -1:
		a.elements = rest
		return nil, nil
	case size < 0 || size > len(rest):
		return nil, protocolFault("an element is cut short")
	}
	a.elements = rest[size:]
	return rest[:size:size], nil
}
