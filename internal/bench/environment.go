package main

import (
	"context"
	"fmt"
	"io"

	"github.com/rowcast/rowcast/internal/measure"
	"github.com/rowcast/rowcast/internal/postgres"
)

// small is a logistic regression over ten features, written by scikit-learn's converter.
const small = "logistic_10"

// bench is what all parts use.
type bench struct {
	*measure.Environment
	settings
	dblink     string // quoted schema of the extension
	smallModel []byte
}

func newBench(ctx context.Context, s settings, log io.Writer) (_ *bench, err error) {
	e, err := measure.Open(ctx, "bench", "`make bench`, or: bin/rowcast dev -- go run ./internal/bench", log)
	if err != nil {
		return nil, err
	}
	b := &bench{Environment: e, settings: s}
	defer func() {
		if err != nil {
			e.Close()
		}
	}()
	err = b.Conn.QueryRow(ctx, "SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'dblink'").
		Scan(&b.dblink)
	if err != nil {
		return nil, postgres.Error(err)
	}
	return b, b.prepare(ctx)
}

// prepare registers the small model and makes the tables.
func (b *bench) prepare(ctx context.Context) error {
	model, options, err := measure.Model(small)
	if err != nil {
		return err
	}
	b.smallModel = model
	if _, err := b.Register(ctx, small, model, options); err != nil {
		return err
	}
	return b.Exec(ctx,
		"DROP SCHEMA IF EXISTS bench CASCADE",
		"CREATE SCHEMA bench",
		"SELECT setseed(0.5)",
		fmt.Sprintf(`CREATE UNLOGGED TABLE bench.bulk AS
			SELECT ARRAY[random(), random(), random(), random(), random(), random(), random(), random(), random(), random()]::double precision[] AS features
			FROM generate_series(1, %d)`, b.bulkRows),
		// One row in each form; a table row of its own for the record form, whose columns are all features.
		fmt.Sprintf(`CREATE UNLOGGED TABLE bench.typed AS
			SELECT features[1]::real AS f0, features[2]::real AS f1, features[3]::real AS f2, features[4]::real AS f3, features[5]::real AS f4,
			       features[6]::real AS f5, features[7]::real AS f6, features[8]::real AS f7, features[9]::real AS f8, features[10]::real AS f9
			FROM bench.bulk LIMIT %d`, b.rows),
		`CREATE UNLOGGED TABLE bench.one AS
			SELECT ARRAY[f0, f1, f2, f3, f4, f5, f6, f7, f8, f9]::double precision[] AS features, to_jsonb(t) AS object,
			       ARRAY[f0, f1, f2, f3, f4, f5, f6, f7, f8, f9]::text AS literal
			FROM bench.typed t`,
		"VACUUM ANALYZE bench.bulk", "VACUUM ANALYZE bench.typed", "VACUUM ANALYZE bench.one",
	)
}
