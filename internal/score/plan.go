package score

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/predict"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// plan is what planning found, kept with the job as JSON.
type plan struct {
	Role    string   `json:"role"`             // the starter, quoted where it must be
	Path    string   `json:"path"`             // the starter's search_path
	Source  string   `json:"source"`           // what stands after FROM, for the starter
	Filter  string   `json:"filter,omitempty"` // which of its rows, besides the chunk's range
	Staged  string   `json:"staged,omitempty"` // the copy of the source that chunks are blocks of
	Key     column   `json:"key"`
	Columns []column `json:"columns"` // of the features

	Target        target `json:"target"`
	Results       string `json:"results"`
	Errors        string `json:"errors,omitempty"`
	ErrorTable    string `json:"error_table,omitempty"`
	Unlogged      bool   `json:"unlogged,omitempty"`
	UniqueKey     bool   `json:"unique_key,omitempty"` // the source cannot have a key twice
	Versioned     bool   `json:"versioned,omitempty"`  // the target has a key once for each version
	Upsert        bool   `json:"upsert,omitempty"`     // results take the place of earlier ones with the same key
	Watermark     string `json:"watermark,omitempty"`
	ChunkRows     int64  `json:"chunk_rows"`
	Prediction    bool   `json:"prediction"`
	Label         bool   `json:"label"`
	Probabilities bool   `json:"probabilities"`
}

// column is one of the source's.
type column struct {
	Name string `json:"name"`
	OID  uint32 `json:"oid"`            // of the type as it is read: that under a domain, text where the engine reads nothing better
	Type string `json:"type"`           // its name, without modifier
	Full string `json:"full,omitempty"` // with modifier and collation, as a table declares it
}

// target is where the results go.
type target struct {
	Schema  string   `json:"schema"`
	Name    string   `json:"name"`
	Exists  bool     `json:"exists"`
	Columns []string `json:"columns,omitempty"` // of an existing one
}

func (t *target) quoted() string { return identifier(t.Schema, t.Name) }

// options are the job's, as ml.score() took them.
type options struct {
	ChunkRows     int64  `json:"chunk_rows"`
	Unlogged      bool   `json:"unlogged"`
	Probabilities bool   `json:"probabilities"`
	NewRows       bool   `json:"new_rows"`
	Since         string `json:"since"`
	ErrorTable    string `json:"error_table"`
}

func (p *plan) columns() []predict.Column {
	out := make([]predict.Column, len(p.Columns))
	for i, c := range p.Columns {
		out[i] = predict.Column{Name: c.Name, OID: c.OID}
	}
	return out
}

// selected is the list of key and features, each cast to the type that it is read as.
func (p *plan) selected() string {
	list := make([]string, 0, len(p.Columns)+1)
	for _, c := range append([]column{p.Key}, p.Columns...) {
		list = append(list, fmt.Sprintf("(source.%s)::%s", identifier(c.Name), c.Type))
	}
	return strings.Join(list, ", ")
}

// readReturns declares what selected gives.
func (p *plan) readReturns() string {
	list := make([]string, 0, len(p.Columns)+1)
	for i, c := range append([]column{p.Key}, p.Columns...) {
		list = append(list, fmt.Sprintf("c%d %s", i, c.Type))
	}
	return "TABLE (" + strings.Join(list, ", ") + ")"
}

// sourceQuery reads the rows for which all conditions hold.
func (p *plan) sourceQuery(conditions ...string) string {
	if p.Filter != "" {
		conditions = append(conditions, p.Filter)
	}
	query := "SELECT " + p.selected() + " FROM " + p.Source + " AS source"
	if len(conditions) > 0 {
		query += " WHERE " + strings.Join(conditions, " AND ")
	}
	return query
}

// keyQuery reads a chunk that is a range of keys.
func (p *plan) keyQuery(chunk *db.ClaimChunkRow) string {
	key := "source." + identifier(p.Key.Name)
	if chunk.Nulls {
		return p.sourceQuery(key + " IS NULL")
	}
	conditions := []string{key + " IS NOT NULL"}
	if chunk.Lo != nil {
		conditions = append(conditions, fmt.Sprintf("%s > %s::%s", key, literal(*chunk.Lo), p.Key.Type))
	}
	if chunk.Hi != nil {
		conditions = append(conditions, fmt.Sprintf("%s <= %s::%s", key, literal(*chunk.Hi), p.Key.Type))
	}
	return p.sourceQuery(conditions...)
}

// blockQuery reads a chunk that is a range of the copy's blocks.
func (p *plan) blockQuery(chunk *db.ClaimChunkRow) string {
	return fmt.Sprintf("SELECT * FROM %s WHERE ctid >= '(%s,0)'::tid AND ctid < '(%s,0)'::tid", p.Staged, *chunk.Lo, *chunk.Hi)
}

// resultNames are the columns of the results, the key first.
func (p *plan) resultNames() []string {
	names := []string{p.Key.Name}
	if p.Prediction {
		names = append(names, "prediction")
	}
	if p.Label {
		names = append(names, "label")
	}
	if p.Probabilities {
		names = append(names, "probabilities")
	}
	return append(names, "version", "scored_at")
}

func (p *plan) resultCount() int { return len(p.resultNames()) }

func (p *plan) resultColumns() string { return quoteAll(p.resultNames()) }

// common are the result columns that the target has.
func (p *plan) common() []string {
	return slices.DeleteFunc(p.resultNames(), func(name string) bool { return !slices.Contains(p.Target.Columns, name) })
}

// resultTable declares the columns of a table for the results.
func (p *plan) resultTable() string {
	types := map[string]string{"prediction": "double precision", "label": "text", "probabilities": "double precision[]", "version": "integer NOT NULL", "scored_at": "timestamptz NOT NULL"}
	names := p.resultNames()
	list := make([]string, len(names))
	for i, name := range names {
		list[i] = identifier(name) + " " + types[name]
		if i == 0 {
			list[i] = identifier(name) + " " + p.Key.Full + " NOT NULL"
		}
	}
	return strings.Join(list, ", ")
}

func quoteAll(names []string) string {
	quoted := make([]string, len(names))
	for i, name := range names {
		quoted[i] = identifier(name)
	}
	return strings.Join(quoted, ", ")
}

// planner is the making of one plan.
type planner struct {
	*Service
	plan
	claim     *claim
	job       *db.MlPrivateJob
	options   options
	signature rowcast.Signature
	session   *session
	who       starter
	relation  uint32 // of a source that is a table, else 0
	rows      int64  // or unknown
	chunks    []chunkRange
}

// unknown is a number of rows that nobody knows: NULL in ml.jobs.
const unknown = -1

type chunkRange struct {
	lo, hi *string
	nulls  bool
}

// plan looks at source and target and cuts the chunks.
func (s *Service) plan(ctx context.Context, c *claim, job *db.MlPrivateJob) error {
	p := &planner{Service: s, claim: c, job: job}
	p.Role, p.Path = job.StartedBy, job.SearchPath
	p.who = starter{role: p.Role, path: p.Path}
	if err := json.Unmarshal(job.Options, &p.options); err != nil {
		return err
	}
	raw, err := s.q.JobSignature(ctx, job.Spec)
	if err != nil {
		return refuse("42704", "version %d of model %q is gone", job.Version, job.Model).advise("Start a job with another version.")
	}
	if err := json.Unmarshal(raw, &p.signature); err != nil {
		return err
	}
	if p.session, err = s.connect(ctx, job.ID); err != nil {
		return err
	}
	defer p.session.close()
	steps := []func(context.Context) error{p.checkRight, p.sweep, p.findTarget, p.findSource, p.checkModel, p.narrow, p.rehearse, p.cut, p.store}
	for _, step := range steps {
		if err := step(ctx); err != nil {
			return err
		}
	}
	s.o.Metrics.jobs.WithLabelValues(phasePlan).Inc()
	s.o.Logger.Info("scoring job planned", "job", job.ID, "model", job.Model, "version", job.Version, "chunks", len(p.chunks), "rows", p.rows, "copied", p.Staged != "")
	return nil
}

// checkRight asks whether the starter may use the model: much time may have passed since ml.score() did.
func (p *planner) checkRight(ctx context.Context) error {
	if p.job.ModelID == nil {
		return nil // dropped, and its version with it
	}
	rows, err := p.session.rows(ctx, fmt.Sprintf("SELECT ml_private.may_use(%d, %s)", *p.job.ModelID, literal(unquoted(p.Role))))
	if err != nil {
		return err
	}
	if string(rows[0][0]) != "t" {
		return refuse("42501", "permission denied for model %q", p.job.Model).
			advise("Its owner can allow it: SELECT ml.grant_model(%s, %s);", literal(p.job.Model), literal(unquoted(p.Role)))
	}
	return nil
}

// sweep drops what an earlier try has left.
func (p *planner) sweep(ctx context.Context) error {
	if err := p.endSessions(ctx, p.session, p.job.ID); err != nil {
		return err
	}
	return p.dropStaging(ctx, p.session, p.job.ID)
}

// endSessions ends the sessions that still work on a job: those of an earlier claim. Their locks would keep the tables from being moved or dropped.
// Mostly they are about to end by themselves, so it looks more often than pg_terminate_backend() would.
func (s *Service) endSessions(ctx context.Context, on *session, job int64) error {
	const often, long = 5 * time.Millisecond, 3 * time.Second
	for began := time.Now(); time.Since(began) < long; {
		if err := on.exec(ctx, "SELECT pg_catalog.pg_stat_clear_snapshot()"); err != nil {
			return err
		}
		left, err := on.rows(ctx, fmt.Sprintf(`SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity AS a
			WHERE a.datname = pg_catalog.current_database() AND a.application_name LIKE '%s%d/%%' AND a.pid <> pg_catalog.pg_backend_pid()`, sessionName, job))
		if err != nil || len(left) == 0 {
			return err
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(often):
		}
	}
	return nil
}

// dropStaging drops the tables that a job has in ml_staging.
func (s *Service) dropStaging(ctx context.Context, on *session, job int64) error {
	rows, err := on.rows(ctx, fmt.Sprintf(`SELECT c.relname FROM pg_catalog.pg_class AS c
		WHERE c.relnamespace = 'ml_staging'::pg_catalog.regnamespace AND c.relkind = 'r' AND c.relname ~ '^job_%d_'`, job))
	if err != nil {
		return err
	}
	for _, row := range rows {
		if err := on.exec(ctx, "DROP TABLE IF EXISTS "+identifier("ml_staging", string(row[0]))); err != nil {
			return err
		}
	}
	return nil
}

// checkModel has the engine look at the columns, and works out which answers there are.
func (p *planner) checkModel(ctx context.Context) error {
	frame, err := p.o.Engine.NewFrame(ctx, p.job.Spec, p.job.Model, int(p.job.Version), p.columns(), 1)
	if err != nil {
		return err
	}
	defer frame.Close()
	if p.options.Probabilities {
		if err := frame.WantProbabilities(); err != nil {
			return err
		}
	}
	sig := &p.signature
	textual := sig.TextLabels() || sig.LabelOutput >= 0 && sig.LabelOutput < len(sig.Outputs) && sig.Outputs[sig.LabelOutput].DType == rowcast.String
	p.Label = sig.Task != rowcast.TaskRegression
	p.Prediction = !p.Label || !textual
	p.Probabilities = p.options.Probabilities
	p.Unlogged = p.options.Unlogged
	if slices.Contains(p.resultNames()[1:], p.Key.Name) {
		return refuse("42701", "the key cannot be called %q: results have a column of that name", p.Key.Name).
			advise("Score a query that renames it: SELECT %s AS id, … FROM …", identifier(p.Key.Name))
	}
	return p.checkTarget()
}

// checkTarget compares an existing target's columns with the results'.
func (p *planner) checkTarget() error {
	if !p.Target.Exists {
		return nil
	}
	needed := []string{p.Key.Name, "label"}
	if p.Prediction {
		needed[1] = "prediction"
	}
	if p.Probabilities {
		needed = append(needed, "probabilities")
	}
	if p.options.NewRows {
		needed = append(needed, "version")
	}
	for _, name := range needed {
		if !slices.Contains(p.Target.Columns, name) {
			return refuse("42703", "target %s has no column %q", p.Target.quoted(), name).
				because("A job of this model writes %s; it fills those that the target has and needs %s.", quoteAll(p.resultNames()), quoteAll(needed)).
				advise("ALTER TABLE %s ADD COLUMN %s …; or let the job make the table: mode create.", p.Target.quoted(), identifier(name))
		}
	}
	return nil
}

// rehearse has PostgreSQL plan what will publish the results, so that an ill-typed column or a right that is missing shows before anything is scored.
func (p *planner) rehearse(ctx context.Context) error {
	name := fmt.Sprintf("job_%d_%d", p.job.ID, p.job.Epoch)
	p.Results = identifier("ml_staging", name)
	if p.job.OnError == "skip" {
		p.Errors = identifier("ml_staging", name+"_errors")
	}
	if !p.Target.Exists {
		return nil
	}
	err := p.session.exec(ctx, "BEGIN; CREATE TABLE "+p.Results+" ("+p.resultTable()+"); GRANT SELECT ON "+p.Results+" TO "+p.Role)
	if err == nil {
		body := "EXECUTE " + literal("EXPLAIN "+p.insert()) + ";"
		if p.job.Mode == "replace" {
			body += " EXECUTE " + literal("EXPLAIN DELETE FROM "+p.Target.quoted()) + ";"
		}
		if err = p.session.lendWithin(ctx, p.who, "void", body, false); err == nil {
			err = p.session.exec(ctx, "SELECT pg_temp.rowcast_borrowed()")
		}
	}
	return p.session.rollBack(ctx, err)
}

// insert fills an existing target.
func (p *plan) insert() string {
	columns := quoteAll(p.common())
	return fmt.Sprintf("INSERT INTO %s (%s) SELECT %s FROM %s", p.Target.quoted(), columns, columns, p.Results)
}

// store makes the tables that chunks write to and commits the plan, unless the claim is somebody else's by now.
func (p *planner) store(ctx context.Context) error {
	kind := ""
	if p.Unlogged && !p.Target.Exists {
		kind = "UNLOGGED "
	}
	text, err := json.Marshal(&p.plan)
	if err != nil {
		return err
	}
	statements := []string{"BEGIN", "CREATE " + kind + "TABLE " + p.Results + " (" + p.resultTable() + ")"}
	if p.Errors != "" {
		statements = append(statements, fmt.Sprintf("CREATE TABLE %s (key %s, reason text NOT NULL, sqlstate text NOT NULL, at timestamptz NOT NULL)", p.Errors, p.Key.Full))
	}
	statements = append(statements, fmt.Sprintf("DELETE FROM ml_private.job_chunk WHERE job_id = %d", p.job.ID))
	for i, c := range p.chunks {
		statements = append(statements, fmt.Sprintf("INSERT INTO ml_private.job_chunk (job_id, number, lo, hi, nulls) VALUES (%d, %d, %s, %s, %t)",
			p.job.ID, i, nullableLiteral(c.lo), nullableLiteral(c.hi), c.nulls))
	}
	if err := p.session.exec(ctx, strings.Join(statements, ";")); err != nil {
		return p.session.rollBack(ctx, err)
	}
	if err := p.checkKeyType(ctx, p.session, p.Results, p.Key.Name); err != nil {
		return p.session.rollBack(ctx, err)
	}
	if p.Errors != "" {
		if err := p.checkKeyType(ctx, p.session, p.Errors, "key"); err != nil {
			return p.session.rollBack(ctx, err)
		}
	}
	n, err := p.session.affected(ctx, fmt.Sprintf(`UPDATE ml_private.job SET phase = 'score', plan = %s, rows_total = nullif(%d, -1), rows_before = 0, rows_done = 0, rows_skipped = 0,
		scoring_since = clock_timestamp(), sidecar = NULL, lease_until = NULL, attempts = 0, error = NULL, sqlstate = NULL, detail = NULL, hint = NULL, retry_at = NULL
		WHERE id = %d AND epoch = %d AND phase = 'plan' AND state IN ('running', 'paused')`, literal(string(text)), p.rows, p.job.ID, p.job.Epoch))
	if err == nil && n != 1 {
		err = errLost
	}
	if err != nil {
		return p.session.rollBack(ctx, err)
	}
	return p.session.exec(ctx, fmt.Sprintf("SELECT pg_catalog.pg_notify('rowcast', 'job %d'); COMMIT", p.job.ID))
}

// checkKeyType makes sure that the key's column in a table of ours is of the type that was looked at. By its name another one may have been found: a
// domain, say, whose checks would run with our rights when rows come in.
func (p *planner) checkKeyType(ctx context.Context, on *session, table, name string) error {
	rows, err := on.rows(ctx, fmt.Sprintf(`SELECT FROM pg_catalog.pg_attribute AS a
		WHERE a.attrelid = %s::pg_catalog.regclass AND a.attname = %s AND a.atttypid = %d`, literal(table), literal(name), p.Key.OID))
	if err == nil && len(rows) != 1 {
		err = refuse("55000", "the type of key column %q was changed meanwhile", p.Key.Name).advise("SELECT ml.retry_job(%d);", p.job.ID)
	}
	return err
}

func nullableLiteral(s *string) string {
	if s == nil {
		return "NULL"
	}
	return literal(*s)
}
