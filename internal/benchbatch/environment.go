package main

import (
	"context"
	"fmt"
	"io"
	"strings"

	"github.com/rowcast/rowcast/internal/jobclient"
	"github.com/rowcast/rowcast/internal/measure"
)

const (
	schema   = "bench_batch"
	source   = schema + ".source" // settings.rows rows
	features = 10
	trees    = "trees_100x6"
	linear   = "logistic_10"
)

// bench is what all parts use.
type bench struct {
	*measure.Environment
	settings
	jobs   *jobclient.Client
	models map[string][]byte
	python *python // nil where it cannot be used
	absent string  // why
}

func newBench(ctx context.Context, s settings, log io.Writer) (_ *bench, err error) {
	e, err := measure.Open(ctx, "bench-batch", "`make bench-batch`, or: bin/rowcast dev -- go run ./internal/benchbatch", log)
	if err != nil {
		return nil, err
	}
	b := &bench{Environment: e, settings: s, jobs: jobclient.New(e.Pool), models: map[string][]byte{}}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	for _, name := range []string{trees, linear} {
		model, options, err := measure.Model(name)
		if err != nil {
			return nil, err
		}
		b.models[name] = model
		if _, err := b.Register(ctx, name, model, options); err != nil {
			return nil, err
		}
	}
	if b.python, err = findPython(ctx, b); err != nil {
		b.absent = err.Error()
		b.Say("without the Python side: %s", b.absent)
	}
	b.Say("making a table of %d rows", s.rows)
	if err := b.Exec(ctx, "DROP SCHEMA IF EXISTS "+schema+" CASCADE", "CREATE SCHEMA "+schema, "SELECT setseed(0.5)"); err != nil {
		return nil, err
	}
	return b, b.makeSource(ctx, source, s.rows)
}

// makeSource makes a table with an id and features of a standard normal distribution, which the models were trained on.
func (b *bench) makeSource(ctx context.Context, table string, rows int) error {
	columns, values := make([]string, features), make([]string, features)
	for i := range features {
		columns[i] = fmt.Sprintf("f%d double precision NOT NULL", i)
		values[i] = "sqrt(-2 * ln(1 - random())) * cos(2 * pi() * random())" // the Box-Muller transform
	}
	return b.Exec(ctx,
		"CREATE TABLE "+table+" (id bigint NOT NULL, "+strings.Join(columns, ", ")+")",
		fmt.Sprintf("INSERT INTO %s SELECT i, %s FROM generate_series(1, %d) AS i", table, strings.Join(values, ", "), rows),
		"ALTER TABLE "+table+" ADD PRIMARY KEY (id)",
		"VACUUM (ANALYZE) "+table,
	)
}

// query selects the key and the features of a table, for predict_rows and for COPY.
func query(table string) string {
	names := make([]string, features)
	for i := range names {
		names[i] = fmt.Sprintf("f%d", i)
	}
	return "SELECT id, " + strings.Join(names, ", ") + " FROM " + table
}
