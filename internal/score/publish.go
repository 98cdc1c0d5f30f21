package score

import (
	"context"
	"encoding/json"
	"fmt"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/db"
)

// publisher is one publication.
type publisher struct {
	*Service
	plan
	job     *db.MlPrivateJob
	session *session
	who     starter
}

// publish puts the results into the target and ends the job, in one transaction.
func (s *Service) publish(ctx context.Context, _ *claim, job *db.MlPrivateJob) error {
	p := &publisher{Service: s, job: job}
	if err := json.Unmarshal(job.Plan, &p.plan); err != nil {
		return err
	}
	p.who = starter{role: p.Role, path: p.Path}
	var err error
	if p.session, err = s.connect(ctx, job.ID); err != nil {
		return err
	}
	defer p.session.close()
	if err := s.endSessions(ctx, p.session, job.ID); err != nil {
		return err
	}
	if lost, err := p.resultsLost(ctx); err != nil || lost {
		return err
	}
	if err := p.session.exec(ctx, "BEGIN; SET LOCAL maintenance_work_mem = '128MB'"); err != nil {
		return err
	}
	if err := p.deliver(ctx); err != nil {
		return p.explain(p.session.rollBack(ctx, err))
	}
	s.o.Metrics.jobs.WithLabelValues(phasePublish).Inc()
	s.o.Logger.Info("scoring job done", "job", job.ID, "model", job.Model, "version", job.Version, "target", p.Target.quoted())
	return nil
}

// resultsLost finds out whether a crash of PostgreSQL has emptied an unlogged table of results. Its chunks are then to be scored again.
func (p *publisher) resultsLost(ctx context.Context) (bool, error) {
	if !p.Unlogged || p.Target.Exists {
		return false, nil
	}
	rows, err := p.session.rows(ctx, fmt.Sprintf(`SELECT (SELECT pg_catalog.count(*) FROM %s) = (SELECT coalesce(pg_catalog.sum(c.rows), 0) FROM ml_private.job_chunk AS c WHERE c.job_id = %d)`,
		p.Results, p.job.ID))
	if err != nil || string(rows[0][0]) == "t" {
		return false, err
	}
	return true, p.planAgain(ctx, p.session, p.job.ID)
}

// planAgain sends a job back to its beginning: an unlogged table of it was emptied by a crash of PostgreSQL.
func (s *Service) planAgain(ctx context.Context, on *session, job int64) error {
	s.o.Logger.Warn("a crash of PostgreSQL has emptied what a scoring job had gathered; it starts again", "job", job)
	return on.exec(ctx, fmt.Sprintf(`UPDATE ml_private.job SET phase = 'plan', epoch = epoch + 1, sidecar = NULL, lease_until = NULL
		WHERE id = %d AND phase IN ('score', 'publish') AND state = 'running'`, job))
}

// deliver does everything up to the commit, and that.
func (p *publisher) deliver(ctx context.Context) error {
	if err := p.checkUnique(ctx); err != nil {
		return err
	}
	var steps []string // with the starter's rights
	handed, err := p.handOver(ctx)
	if err != nil {
		return err
	}
	if !handed {
		if err := p.session.exec(ctx, "GRANT SELECT ON "+p.Results+" TO "+p.Role); err != nil {
			return err
		}
		steps = append(steps, p.fill()...)
	}
	if p.ErrorTable != "" {
		if err := p.session.exec(ctx, "GRANT SELECT ON "+p.Errors+" TO "+p.Role); err != nil {
			return err
		}
		steps = append(steps, p.fillErrors()...)
	}
	if len(steps) > 0 {
		if err := p.borrow(ctx, steps); err != nil {
			return err
		}
	}
	// The fence, see chunk: a claim that was taken over or a job that was canceled finds no row.
	n, err := p.session.affected(ctx, fmt.Sprintf(`UPDATE ml_private.job AS j
		SET state = 'done', phase = 'end', finished_at = pg_catalog.clock_timestamp(), rows_done = c.done, rows_skipped = c.skipped, rows_total = c.done OPERATOR(pg_catalog.+) c.skipped,
			sidecar = NULL, lease_until = NULL, attempts = 0, error = NULL, sqlstate = NULL, detail = NULL, hint = NULL, retry_at = NULL
		FROM (SELECT coalesce(pg_catalog.sum(x.rows), 0)::pg_catalog.int8 AS done, coalesce(pg_catalog.sum(x.skipped), 0)::pg_catalog.int8 AS skipped
			FROM ml_private.job_chunk AS x WHERE x.job_id OPERATOR(pg_catalog.=) %[1]d) AS c
		WHERE j.id OPERATOR(pg_catalog.=) %[1]d AND j.epoch OPERATOR(pg_catalog.=) %[2]d AND j.state OPERATOR(pg_catalog.=) 'running'::pg_catalog.text
			AND j.phase OPERATOR(pg_catalog.=) 'publish'::pg_catalog.text`, p.job.ID, p.job.Epoch))
	if err != nil {
		return err
	}
	if n != 1 {
		return errLost
	}
	if err := p.session.exec(ctx, fmt.Sprintf("DELETE FROM ml_private.job_chunk AS c WHERE c.job_id OPERATOR(pg_catalog.=) %d", p.job.ID)); err != nil {
		return err
	}
	if err := p.dropStaging(ctx, p.session, p.job.ID); err != nil {
		return err
	}
	return p.session.exec(ctx, "COMMIT")
}

// checkUnique finds a key that the source has twice. A table that the job makes gets a primary key, which finds it too.
func (p *publisher) checkUnique(ctx context.Context) error {
	if p.UniqueKey || !p.Target.Exists {
		return nil
	}
	return p.session.exec(ctx, "CREATE UNIQUE INDEX ON "+p.Results+" ("+identifier(p.Key.Name)+")")
}

// explain names the key that the source has twice, and says what to do about one that the target has already.
func (p *publisher) explain(err error) error {
	f := p.diagnose(err)
	switch {
	case f.state != "23505":
		return err
	case strings.Contains(f.detail, "is duplicated") || strings.Contains(f.message, "job_"):
		return refuse("23505", "the key %q is not unique in the source", p.Key.Name).because("%s", f.detail).
			advise("Score a query that has each key once, or choose another key.")
	case p.job.Mode == "append" && f.hint == "":
		return refuse("23505", "%s", f.message).because("%s", f.detail).
			advise("Rows of the target are in the way: use mode replace, or the option new_rows or since.")
	}
	return err
}

// primaryKey are the columns that a target made by a job is unique by.
func (p *publisher) primaryKey() string {
	if p.Versioned {
		return identifier(p.Key.Name) + ", version"
	}
	return identifier(p.Key.Name)
}

// comments describe a table that the job makes.
func (p *publisher) comments(table string) []string {
	what := map[string]string{
		p.Key.Name:      "Key of the row that was scored.",
		"prediction":    "What predict() gives: the value, or the class as a number.",
		"label":         "What predict_label() gives.",
		"probabilities": "What predict_proba() gives: in the order of labels in ml.versions.",
		"version":       "Version of the model.",
		"scored_at":     "When the row was scored.",
	}
	list := []string{fmt.Sprintf("COMMENT ON TABLE %s IS %s", table,
		literal(fmt.Sprintf("Rows of %s scored with model %s by Rowcast; see ml.jobs.", oneLine(p.job.Source), p.job.Model)))}
	for _, name := range p.resultNames() {
		list = append(list, fmt.Sprintf("COMMENT ON COLUMN %s.%s IS %s", table, identifier(name), literal(what[name])))
	}
	return list
}

func oneLine(s string) string {
	s = strings.Join(strings.Fields(s), " ")
	if len(s) > 100 {
		s = strings.ToValidUTF8(s[:100], "") + " …"
	}
	return s
}

// handOver turns the table of results into the target: no row is written again. It needs the right to create tables in that schema for the starter,
// whose table it becomes, and for Rowcast, which moves it there; where Rowcast lacks it, handOver reports false. No code of the starter's runs.
func (p *publisher) handOver(ctx context.Context) (bool, error) {
	if p.Target.Exists {
		return false, nil
	}
	rows, err := p.session.rows(ctx, fmt.Sprintf(`SELECT has_schema_privilege(n.oid, 'CREATE'), has_schema_privilege(%s, n.oid, 'CREATE')
		FROM pg_catalog.pg_namespace AS n WHERE n.nspname = %s`, literal(unquoted(p.Role)), literal(p.Target.Schema)))
	switch {
	case err != nil:
		return false, err
	case len(rows) == 0:
		return false, refuse("3F000", "schema %s does not exist any more", identifier(p.Target.Schema)).advise("Create it, then SELECT ml.retry_job(%d);", p.job.ID)
	case string(rows[0][1]) != "t":
		return false, refuse("42501", "%s may not create a table in schema %s any more", p.Role, identifier(p.Target.Schema)).
			advise("GRANT CREATE ON SCHEMA %s TO %s; then SELECT ml.retry_job(%d);", identifier(p.Target.Schema), p.Role, p.job.ID)
	case string(rows[0][0]) != "t":
		return false, nil
	}
	staged := strings.TrimPrefix(p.Results, `"ml_staging".`)
	moved := identifier(p.Target.Schema) + "." + staged
	statements := []string{
		"ALTER TABLE " + p.Results + " SET SCHEMA " + identifier(p.Target.Schema),
		"ALTER TABLE " + moved + " RENAME TO " + identifier(p.Target.Name),
		"ALTER TABLE " + p.Target.quoted() + " ADD PRIMARY KEY (" + p.primaryKey() + ")",
	}
	statements = append(statements, p.comments(p.Target.quoted())...)
	statements = append(statements, "ALTER TABLE "+p.Target.quoted()+" OWNER TO "+p.Role)
	for _, sql := range statements {
		if err := p.session.exec(ctx, sql); err != nil {
			if stateOf(err) == "42P07" {
				return false, refuse("42P07", "target %s was made by somebody else meanwhile", p.Target.quoted()).
					advise("Drop or rename it, then SELECT ml.retry_job(%d);", p.job.ID)
			}
			return false, err
		}
	}
	return true, nil
}

// fill are the statements that write the results into the target as the starter.
func (p *publisher) fill() []string {
	key := identifier(p.Key.Name)
	if !p.Target.Exists {
		p.Target.Columns = p.resultNames()
		return append([]string{
			"CREATE TABLE " + p.Target.quoted() + " (" + p.resultTable() + ")", p.insert(),
			"ALTER TABLE " + p.Target.quoted() + " ADD PRIMARY KEY (" + p.primaryKey() + ")",
		}, p.comments(p.Target.quoted())...)
	}
	var steps []string
	switch {
	case p.job.Mode == "replace":
		steps = append(steps, "DELETE FROM "+p.Target.quoted())
	case p.Upsert:
		same := "scored." + key + " = fresh." + key
		if p.Versioned {
			same += " AND scored.version = fresh.version"
		}
		steps = append(steps, "DELETE FROM "+p.Target.quoted()+" AS scored USING "+p.Results+" AS fresh WHERE "+same)
	}
	return append(steps, p.insert())
}

// fillErrors writes the bad rows into the error table, which it makes where there is none.
func (p *publisher) fillErrors() []string {
	create := []string{
		fmt.Sprintf("CREATE TABLE %s (job bigint NOT NULL, key %s, reason text NOT NULL, sqlstate text NOT NULL, at timestamptz NOT NULL)", p.ErrorTable, p.Key.Full),
		fmt.Sprintf("COMMENT ON TABLE %s IS %s", p.ErrorTable, literal("Rows that scoring jobs of Rowcast have skipped; see ml.jobs.")),
		fmt.Sprintf("COMMENT ON COLUMN %s.job IS %s", p.ErrorTable, literal("Number of the job, see ml.jobs.")),
		fmt.Sprintf("COMMENT ON COLUMN %s.key IS %s", p.ErrorTable, literal("Key of the row, NULL where it has none.")),
		fmt.Sprintf("COMMENT ON COLUMN %s.reason IS %s", p.ErrorTable, literal("What is wrong with it.")),
		fmt.Sprintf("COMMENT ON COLUMN %s.sqlstate IS %s", p.ErrorTable, literal("SQLSTATE that predict() would raise for it.")),
		fmt.Sprintf("COMMENT ON COLUMN %s.at IS %s", p.ErrorTable, literal("When it was skipped.")),
	}
	return []string{
		"DO " + literal("BEGIN IF pg_catalog.to_regclass("+literal(p.ErrorTable)+") IS NULL THEN "+strings.Join(create, "; ")+"; END IF; END"),
		fmt.Sprintf("INSERT INTO %s (job, key, reason, sqlstate, at) SELECT %d, key, reason, sqlstate, at FROM %s", p.ErrorTable, p.job.ID, p.Errors),
	}
}

// rounds is how often deferred triggers may queue other deferred triggers.
const rounds = 20

// borrow runs the statements with the starter's rights, and everything that they defer to the commit. SET CONSTRAINTS fires what is queued; a trigger
// may queue more, deferred again. That takes a statement that changes rows, so a round in which there was none has left nothing behind. The number of
// the transaction's statements that change something tells: it only grows, whatever the starter's code does. A row of ours has it as its cmin. (What
// PostgreSQL counts of changed rows is no measure: TRUNCATE and DROP TABLE take it back.)
func (p *publisher) borrow(ctx context.Context, steps []string) error {
	marks := identifier("ml_staging", fmt.Sprintf("job_%d_%d_marks", p.job.ID, p.job.Epoch)) // dropped with the other tables of the job
	if err := p.session.exec(ctx, "CREATE TABLE "+marks+" (); GRANT SELECT, INSERT ON "+marks+" TO "+p.Role); err != nil {
		return err
	}
	var body strings.Builder
	for _, sql := range steps {
		body.WriteString("EXECUTE " + literal(sql) + "; ")
	}
	mark := "INSERT INTO " + marks + " DEFAULT VALUES RETURNING cmin::pg_catalog.text::pg_catalog.int8 INTO "
	body.WriteString(`LOOP ` + mark + `before; SET CONSTRAINTS ALL IMMEDIATE; ` + mark + `after;
		EXIT WHEN after OPERATOR(pg_catalog.=) (before OPERATOR(pg_catalog.+) 1::pg_catalog.int8);
		round := round OPERATOR(pg_catalog.+) 1;
		IF round OPERATOR(pg_catalog.>) ` + strconv.Itoa(rounds) + ` THEN
			RAISE EXCEPTION 'deferred triggers of the target queue others without end' USING ERRCODE = '54001';
		END IF; END LOOP;`)
	err := p.session.lendWithin(ctx, p.who, "DECLARE before pg_catalog.int8; after pg_catalog.int8; round pg_catalog.int4 := 0; RETURNS void", body.String(), false)
	if err != nil {
		return err
	}
	if err := p.session.exec(ctx, "SELECT pg_temp.rowcast_borrowed()"); err != nil {
		return err
	}
	return p.session.takeBack(ctx)
}

// clean drops what a canceled job has left.
func (s *Service) clean(ctx context.Context, job *db.MlPrivateJob) error {
	on, err := s.connect(ctx, job.ID)
	if err != nil {
		return err
	}
	defer on.close()
	if err := s.endSessions(ctx, on, job.ID); err != nil {
		return err
	}
	if err := s.dropStaging(ctx, on, job.ID); err != nil {
		return err
	}
	return on.exec(ctx, fmt.Sprintf(`DELETE FROM ml_private.job_chunk WHERE job_id = %[1]d;
		UPDATE ml_private.job SET phase = 'end', sidecar = NULL, lease_until = NULL WHERE id = %[1]d AND epoch = %[2]d AND phase = 'clean'`, job.ID, job.Epoch))
}
