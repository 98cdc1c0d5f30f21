package score

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"regexp"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/predict"
)

// isQuery tells a query from the name of a table.
func isQuery(source string) bool {
	return regexp.MustCompile(`(?is)^\s*(\(|--|/\*|(select|with|values|table)\b)`).MatchString(source)
}

// findTarget resolves the target's name as the starter's session would.
func (p *planner) findTarget(ctx context.Context) error {
	found, columns, err := p.resolve(ctx, p.job.Target, "target")
	if err != nil {
		return err
	}
	p.Target = *found
	p.Target.Columns = columns
	switch {
	case p.job.Mode == "create" && found.Exists:
		return refuse("42P07", "target %s exists already", found.quoted()).advise("Choose another name, or mode replace or append.")
	case p.job.OnError == "skip":
		name := p.options.ErrorTable
		if name == "" {
			name = identifier(found.Schema, found.Name+"_errors")
		}
		bad, _, err := p.resolve(ctx, name, "error table")
		if err != nil {
			return err
		}
		p.ErrorTable = bad.quoted()
	}
	return nil
}

// resolve looks a table's name up. One that does not exist is where it would be made.
func (p *planner) resolve(ctx context.Context, name, what string) (*target, []string, error) {
	body := fmt.Sprintf(`found := pg_catalog.to_regclass(%[1]s);
		IF found IS NOT NULL THEN
			RETURN QUERY SELECT n.nspname::pg_catalog.text, c.relname::pg_catalog.text, true, NULL::pg_catalog.text
			FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
			WHERE c.oid OPERATOR(pg_catalog.=) found::pg_catalog.oid;
			RETURN QUERY SELECT NULL::pg_catalog.text, NULL::pg_catalog.text, NULL::pg_catalog.bool, a.attname::pg_catalog.text FROM pg_catalog.pg_attribute AS a
			WHERE a.attrelid OPERATOR(pg_catalog.=) found::pg_catalog.oid AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped;
			RETURN;
		END IF;
		parts := pg_catalog.parse_ident(%[1]s);
		RETURN QUERY SELECT CASE pg_catalog.cardinality(parts) WHEN 1 THEN pg_catalog.current_schema()::pg_catalog.text ELSE parts[1] END,
			parts[pg_catalog.cardinality(parts)], false, NULL::pg_catalog.text;`, literal(name))
	rows, err := p.session.ask(ctx, p.who, "DECLARE found pg_catalog.regclass; parts pg_catalog.text[]; RETURNS TABLE (c0 text, c1 text, c2 boolean, c3 text)", body, true)
	if err != nil {
		return nil, nil, err
	}
	if len(rows) == 0 { // dropped between one look and the next
		return nil, nil, refuse("42P01", "the %s %s was dropped just now", what, name)
	}
	first := rows[0]
	found := &target{Schema: string(first[0]), Name: string(first[1]), Exists: string(first[2]) == "t"}
	var columns []string
	for _, row := range rows[1:] {
		columns = append(columns, string(row[3]))
	}
	if found.Exists {
		return found, columns, nil
	}
	check, err := p.session.rows(ctx, fmt.Sprintf(`SELECT n.oid IS NOT NULL, pg_catalog.has_schema_privilege(%s, n.oid, 'CREATE')
		FROM (SELECT 1) AS one LEFT JOIN pg_catalog.pg_namespace AS n ON n.nspname = %s`, literal(unquoted(p.Role)), literal(found.Schema)))
	switch {
	case err != nil:
		return nil, nil, err
	case found.Schema == "" || string(check[0][0]) != "t":
		return nil, nil, refuse("3F000", "there is no schema to make the %s %s in", what, name).advise("Write schema.table.")
	case string(check[0][1]) != "t":
		return nil, nil, refuse("42501", "%s may not create the %s in schema %s", p.Role, what, identifier(found.Schema)).
			advise("GRANT CREATE ON SCHEMA %s TO %s;", identifier(found.Schema), p.Role)
	}
	return found, nil, nil
}

// unquoted is a role's name from how regrole writes it.
func unquoted(role string) string {
	if strings.HasPrefix(role, `"`) && strings.HasSuffix(role, `"`) && len(role) > 1 {
		return strings.ReplaceAll(role[1:len(role)-1], `""`, `"`)
	}
	return role
}

// findSource looks up the source's columns with the starter's rights.
func (p *planner) findSource(ctx context.Context) error {
	const returns = "DECLARE found pg_catalog.oid; RETURNS TABLE (c0 oid, c1 text, c2 oid, c3 integer, c4 oid)"
	body, readOnly := "", true
	if isQuery(p.job.Source) {
		// Parentheses keep it one query; a comment at its end must not hide them.
		p.Source = "(" + strings.TrimRight(strings.TrimSpace(p.job.Source), "; \t\n") + "\n)"
		body = "EXECUTE " + literal("CREATE TEMPORARY TABLE rowcast_probe AS SELECT * FROM "+p.Source+" AS source WITH NO DATA") +
			"; found := 'pg_temp.rowcast_probe'::pg_catalog.regclass;"
		readOnly = false
	} else {
		body = "found := " + literal(p.job.Source) + "::pg_catalog.regclass;"
	}
	body += ` RETURN QUERY SELECT found, a.attname::pg_catalog.text, a.atttypid, a.atttypmod, a.attcollation FROM pg_catalog.pg_attribute AS a
		WHERE a.attrelid OPERATOR(pg_catalog.=) found AND a.attnum OPERATOR(pg_catalog.>) 0 AND NOT a.attisdropped;`
	rows, err := p.session.ask(ctx, p.who, returns, body, readOnly)
	if err != nil {
		if stateOf(err) == "42P01" && !isQuery(p.job.Source) {
			return refuse("42P01", "source %s does not exist", p.job.Source).
				advise("It was looked up by the search_path of the session that asked for the job: %s. Write schema.table.", p.Path)
		}
		return err
	}
	wanted := map[string]bool{p.job.Key: true}
	for _, f := range p.signature.Features {
		wanted[f.Name] = true
	}
	found := false
	var names []string
	for _, row := range rows {
		name := string(row[1])
		names = append(names, identifier(name))
		if !wanted[name] {
			continue
		}
		c, err := p.describe(ctx, name, string(row[2]), string(row[3]), string(row[4]), name == p.job.Key)
		if err != nil {
			return err
		}
		if name == p.job.Key {
			p.Key, found = *c, true
		}
	}
	if !found {
		return refuse("42703", "the source has no column %q to be the key", p.job.Key).because("It has %s.", strings.Join(names, ", ")).
			advise("Name one of these, with capital letters and without quotes where it has them.")
	}
	if p.Source == "" {
		relation, err := strconv.ParseUint(string(rows[0][0]), 10, 32)
		if err != nil {
			return err
		}
		p.relation = uint32(relation)
		name, err := p.session.rows(ctx, fmt.Sprintf(`SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(c.relname)
			FROM pg_catalog.pg_class AS c JOIN pg_catalog.pg_namespace AS n ON n.oid = c.relnamespace WHERE c.oid = %d`, relation))
		if err != nil {
			return err
		}
		if len(name) == 0 {
			return refuse("42P01", "source %s does not exist any more", p.job.Source)
		}
		p.Source = string(name[0][0])
	}
	return nil
}

// describe works out how a column is read, and adds it to the features where it is one. Numbers came through the starter's code: they are checked.
func (p *planner) describe(ctx context.Context, name, oid, modifier, collation string, isKey bool) (*column, error) {
	for _, n := range []string{oid, modifier, collation} {
		if _, err := strconv.ParseInt(n, 10, 64); err != nil {
			return nil, err
		}
	}
	rows, err := p.session.rows(ctx, fmt.Sprintf(`WITH RECURSIVE under AS (
			SELECT t.oid, t.typtype, t.typbasetype, %[2]s AS typmod, t.typelem, t.typcategory FROM pg_catalog.pg_type AS t WHERE t.oid = %[1]s
			UNION ALL
			SELECT t.oid, t.typtype, t.typbasetype, d.typtypmod, t.typelem, t.typcategory
			FROM under AS u JOIN pg_catalog.pg_type AS d ON d.oid = u.oid JOIN pg_catalog.pg_type AS t ON t.oid = d.typbasetype WHERE u.typtype = 'd')
		SELECT u.oid, pg_catalog.format_type(u.oid, -1),
			pg_catalog.format_type(u.oid, u.typmod) || coalesce((SELECT ' COLLATE ' || pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(l.collname)
				FROM pg_catalog.pg_collation AS l JOIN pg_catalog.pg_namespace AS n ON n.oid = l.collnamespace WHERE l.oid = %[3]s AND l.collname <> 'default'), ''),
			u.typtype IN ('b', 'e') AND u.typcategory <> 'A' AND EXISTS (SELECT FROM pg_catalog.pg_opclass AS o JOIN pg_catalog.pg_am AS m ON m.oid = o.opcmethod
				WHERE m.amname = 'btree' AND o.opcdefault AND (o.opcintype = u.oid OR u.typtype = 'e' OR EXISTS (SELECT FROM pg_catalog.pg_cast AS c
					WHERE c.castsource = u.oid AND c.casttarget = o.opcintype AND c.castmethod = 'b' AND c.castcontext = 'i')))
		FROM under AS u WHERE u.typtype <> 'd'`, oid, modifier, collation))
	if err != nil {
		return nil, err
	}
	if len(rows) != 1 {
		return nil, refuse("42704", "the type of column %q does not exist any more", name)
	}
	row := rows[0]
	id, err := strconv.ParseUint(string(row[0]), 10, 32)
	if err != nil {
		return nil, err
	}
	c := &column{Name: name, OID: uint32(id), Type: string(row[1]), Full: string(row[2])}
	if isKey && string(row[3]) != "t" {
		return nil, refuse("42804", "column %q cannot be the key: its type is %s", name, c.Type).
			because("A key is of a plain type that has an order.").advise("Score a query that makes a key, for instance with a cast to text.")
	}
	for _, f := range p.signature.Features {
		if f.Name == name {
			feature := column{Name: name, OID: c.OID, Type: c.Type}
			if !predict.Readable(c.OID) {
				feature.OID, feature.Type = oidText, "pg_catalog.text"
			}
			p.Columns = append(p.Columns, feature)
			break
		}
	}
	return c, nil
}

const oidText = 25

// narrow leaves out what was scored before, where the job is an incremental one.
func (p *planner) narrow(ctx context.Context) error {
	var filters []string
	if p.options.NewRows {
		p.Versioned = true
		if p.Target.Exists {
			filters = append(filters, fmt.Sprintf("NOT EXISTS (SELECT FROM %s AS scored WHERE scored.%s = source.%s AND scored.version = %d)",
				p.Target.quoted(), identifier(p.Key.Name), identifier(p.Key.Name), p.job.Version))
		}
	}
	if p.options.Since != "" {
		p.Upsert = true
		since := "source." + identifier(p.options.Since)
		rows, err := p.session.ask(ctx, p.who, "TABLE (c0 text)",
			"RETURN QUERY EXECUTE "+literal("SELECT (SELECT max("+since+") FROM "+p.Source+" AS source)::pg_catalog.text")+";", true)
		if err != nil {
			return err
		}
		from, err := p.q.LastWatermark(ctx, db.LastWatermarkParams{
			ID: p.job.ID, StartedBy: p.job.StartedBy, ModelID: p.job.ModelID, Target: p.job.Target, Source: p.job.Source, Version: p.job.Version, Since: p.options.Since,
		})
		if err != nil && !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		p.Watermark = from
		if rows[0][0] != nil {
			p.Watermark = string(rows[0][0])
		}
		switch {
		case p.Watermark == "":
			filters = append(filters, "false")
		case from != "" && p.Target.Exists:
			filters = append(filters, since+" > "+literal(from))
			fallthrough
		default:
			filters = append(filters, since+" <= "+literal(p.Watermark))
		}
	}
	p.Filter = strings.Join(filters, " AND ")
	return nil
}

// index is what the catalog says about reading the source in ranges of the key.
type index struct {
	usable, unique, nullable bool
	blocks                   int64
}

// orderly is how well the order of the keys must agree with that of the rows on disk for ranges of keys to be read by the index.
const orderly = 0.6

// cut decides how the source is read, and cuts it.
func (p *planner) cut(ctx context.Context) error {
	var ix index
	if p.relation != 0 {
		var err error
		if ix, err = p.indexOfKey(ctx); err != nil {
			return err
		}
	}
	p.UniqueKey = ix.unique
	if ix.usable {
		sorted, err := p.cutByKey(ctx, &ix)
		if err != nil {
			return err
		}
		if sorted {
			return nil
		}
	}
	return p.copySource(ctx)
}

func (p *planner) indexOfKey(ctx context.Context) (ix index, err error) {
	rows, err := p.session.rows(ctx, fmt.Sprintf(`SELECT pg_catalog.count(i.*) > 0, coalesce(pg_catalog.bool_or(i.indisunique AND i.indnkeyatts = 1 AND i.indimmediate), false),
			NOT pg_catalog.bool_or(a.attnotnull),
			(SELECT coalesce(pg_catalog.sum(pg_catalog.pg_relation_size(r.id)), 0)::bigint FROM (
				SELECT t.relid AS id FROM pg_catalog.pg_partition_tree(%[1]d) AS t WHERE t.isleaf UNION SELECT %[1]d::pg_catalog.oid::pg_catalog.regclass) AS r
			) / pg_catalog.current_setting('block_size')::bigint
		FROM pg_catalog.pg_class AS c
		JOIN pg_catalog.pg_attribute AS a ON a.attrelid = c.oid AND a.attname = %[2]s
		LEFT JOIN pg_catalog.pg_index AS i ON i.indrelid = c.oid AND i.indkey[0] = a.attnum AND i.indisvalid AND i.indpred IS NULL
			AND EXISTS (SELECT FROM pg_catalog.pg_class AS x JOIN pg_catalog.pg_am AS m ON m.oid = x.relam WHERE x.oid = i.indexrelid AND m.amname = 'btree')
			AND EXISTS (SELECT FROM pg_catalog.pg_opclass AS o WHERE o.oid = i.indclass[0] AND o.opcdefault) AND i.indcollation[0] = a.attcollation
		WHERE c.oid = %[1]d AND c.relkind IN ('r', 'p', 'm')`, p.relation, literal(p.Key.Name)))
	if err != nil || len(rows) == 0 {
		return ix, err
	}
	ix.usable, ix.unique, ix.nullable = string(rows[0][0]) == "t", string(rows[0][1]) == "t", string(rows[0][2]) == "t"
	ix.blocks, err = strconv.ParseInt(string(rows[0][3]), 10, 64)
	return ix, err
}

// sampleBlocks is how many blocks of the source are looked at to find bounds of equal shares.
const sampleBlocks = 400

// cutByKey cuts the source into ranges of keys, by a sample. It reports false where the rows do not lie about in the order of their keys: each range
// would be read from all over the table.
func (p *planner) cutByKey(ctx context.Context, ix *index) (bool, error) {
	key := "source." + identifier(p.Key.Name)
	percent := math.Min(100, math.Max(0.0001, 100*sampleBlocks/math.Max(1, float64(ix.blocks))))
	const pieces = 512 // quantiles, of which the bounds are chosen when the number of chunks is known
	sample := fmt.Sprintf(`WITH sample AS MATERIALIZED (
			SELECT %[1]s AS k, pg_catalog.row_number() OVER () AS p
			FROM %[2]s AS source TABLESAMPLE system (%[3]s) REPEATABLE (1) WHERE %[1]s IS NOT NULL),
		ranked AS (SELECT s.k, s.p, pg_catalog.row_number() OVER (ORDER BY s.k) AS r, pg_catalog.count(*) OVER () AS n FROM sample AS s)
		SELECT NULL::pg_catalog.text, pg_catalog.count(*), pg_catalog.corr(x.p, x.r) FROM ranked AS x
		UNION ALL (
		SELECT x.k::pg_catalog.text, x.r, NULL FROM ranked AS x WHERE x.n <= %[4]d OR x.r * %[4]d / x.n <> (x.r - 1) * %[4]d / x.n ORDER BY x.r)`,
		key, p.Source, strconv.FormatFloat(percent, 'f', -1, 64), pieces)
	rows, err := p.session.ask(ctx, p.who, "TABLE (c0 text, c1 bigint, c2 double precision)", "RETURN QUERY EXECUTE "+literal(sample)+";", true)
	if err != nil {
		return false, err
	}
	sampled, err := strconv.ParseInt(string(rows[0][1]), 10, 64)
	if err != nil {
		return false, err
	}
	p.rows = int64(float64(sampled) / percent * 100)
	if p.Filter != "" {
		p.rows = unknown // before they are read
	}
	p.chunkRows(int64(float64(sampled) / percent * 100))
	wanted := int(float64(sampled)/percent*100) / int(p.ChunkRows)
	if rows[0][2] != nil && wanted > 2 {
		agreement, err := strconv.ParseFloat(string(rows[0][2]), 64)
		if err != nil || math.Abs(agreement) < orderly {
			return false, err
		}
	}
	var bounds []string
	for _, row := range rows[1:] {
		if text := string(row[0]); len(bounds) == 0 || bounds[len(bounds)-1] != text {
			bounds = append(bounds, text)
		}
	}
	wanted = min(wanted, len(bounds))
	var lo *string
	for i := 1; i < wanted; i++ {
		hi := &bounds[i*len(bounds)/wanted]
		if lo == nil || *hi != *lo {
			p.chunks = append(p.chunks, chunkRange{lo: lo, hi: hi})
			lo = hi
		}
	}
	p.chunks = append(p.chunks, chunkRange{lo: lo})
	if ix.nullable {
		p.chunks = append(p.chunks, chunkRange{nulls: true})
	}
	return true, nil
}

// chunkRows chooses the size of chunks: small enough that a lost one is soon done again and that all workers end together, large enough that what each
// costs beside its rows does not count.
func (p *planner) chunkRows(total int64) {
	p.ChunkRows = p.options.ChunkRows
	if p.ChunkRows == 0 {
		p.ChunkRows = min(max(total/32, 20_000), 100_000)
	}
}

// copySource copies key and features, in one snapshot, to a table of ours that chunks are blocks of. The starter's code runs in the transaction that
// reads; the rows go through the sidecar to the one that writes.
func (p *planner) copySource(ctx context.Context) error {
	p.Staged = identifier("ml_staging", fmt.Sprintf("job_%d_%d_source", p.job.ID, p.job.Epoch))
	writer, err := p.connect(ctx, p.job.ID)
	if err != nil {
		return err
	}
	defer writer.close()
	list := make([]string, 0, len(p.Columns)+1)
	for i, c := range append([]column{p.Key}, p.Columns...) {
		list = append(list, fmt.Sprintf("c%d %s", i, c.Type))
	}
	// Nothing but this job needs it, and a crash of PostgreSQL, which empties it, is noticed: see sourceLost.
	if err := writer.exec(ctx, "BEGIN; CREATE UNLOGGED TABLE "+p.Staged+" ("+strings.Join(list, ", ")+") WITH (autovacuum_enabled = false)"); err != nil {
		return err
	}
	if err := p.checkKeyType(ctx, writer, p.Staged, "c0"); err != nil {
		return err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	rows, err := p.pump(ctx, writer)
	if err != nil {
		return err
	}
	p.rows = rows
	size, err := writer.rows(ctx, fmt.Sprintf("SELECT pg_catalog.pg_relation_size('%s') / pg_catalog.current_setting('block_size')::bigint", p.Staged))
	if err != nil {
		return err
	}
	blocks, err := strconv.ParseInt(string(size[0][0]), 10, 64)
	if err != nil {
		return err
	}
	p.chunkRows(rows)
	wanted := max(1, min(rows/p.ChunkRows, blocks))
	for i := range wanted {
		lo, hi := strconv.FormatInt(i*blocks/wanted, 10), strconv.FormatInt((i+1)*blocks/wanted, 10)
		p.chunks = append(p.chunks, chunkRange{lo: &lo, hi: &hi})
	}
	// The same fence as for a chunk: a copy of a job that was canceled meanwhile must not stay.
	n, err := writer.affected(ctx, fmt.Sprintf("SELECT FROM ml_private.job WHERE id = %d AND epoch = %d FOR SHARE", p.job.ID, p.job.Epoch))
	if err != nil {
		return err
	}
	if n != 1 {
		return errLost
	}
	return writer.exec(ctx, "COMMIT")
}

// pump sends what COPY reads to the COPY that writes, as it comes: both speak the same format.
func (p *planner) pump(ctx context.Context, writer *session) (int64, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if err := p.session.lend(ctx, p.who, p.readReturns(), "RETURN QUERY EXECUTE "+literal(p.sourceQuery())+";", true); err != nil {
		return 0, p.session.rollBack(ctx, err)
	}
	source, sink := io.Pipe()
	type outcome struct {
		rows int64
		err  error
	}
	written := make(chan outcome, 1)
	go func() {
		tag, err := writer.conn.CopyFrom(ctx, source, "COPY "+p.Staged+" FROM STDIN (FORMAT binary)")
		_ = source.CloseWithError(errors.Join(errWriter, err))
		written <- outcome{tag.RowsAffected(), err}
	}()
	counted := &counter{sink: sink, rows: &p.claim.seen}
	_, err := p.session.conn.CopyTo(ctx, counted, "COPY (SELECT * FROM pg_temp.rowcast_borrowed()) TO STDOUT (FORMAT binary)")
	if err != nil {
		cancel()
		_ = sink.CloseWithError(err)
		if w := <-written; counted.failed && w.err != nil {
			return 0, w.err
		}
		return 0, err
	}
	if err := counted.flush(); err != nil {
		_ = sink.CloseWithError(err)
		return 0, errors.Join(err, (<-written).err)
	}
	_ = sink.Close()
	w := <-written
	return w.rows, p.session.rollBack(ctx, w.err)
}
