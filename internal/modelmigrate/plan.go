package modelmigrate

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"

	"github.com/jackc/pgx/v5"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Plan is what the next migrations would change in one database.
type Plan struct {
	From       int             `json:"from"`
	To         int             `json:"to"`
	Migrations []MigrationPlan `json:"migrations"`
	Uploaded   []string        `json:"uploaded"` // artifacts that were sent for it
	Notes      []string        `json:"notes,omitempty"`
}

// Changes reports whether anything would change.
func (p *Plan) Changes() bool { return p.From != p.To }

// MigrationPlan is what one migration would change.
type MigrationPlan struct {
	Version int      `json:"version"`
	Name    string   `json:"name"` // 000002_churn_v2
	Effects []Effect `json:"effects"`
}

// Effect is one thing that would change.
type Effect struct {
	Kind    string       `json:"kind"` // model, version, alias, grant, artifact or a table's name
	Action  string       `json:"action"`
	Model   string       `json:"model,omitempty"`
	Version int          `json:"version,omitempty"`
	Name    string       `json:"name,omitempty"` // of an alias, a role or a row
	From    string       `json:"from,omitempty"`
	To      string       `json:"to,omitempty"`
	Against string       `json:"against,omitempty"` // the version that Differs compares with, churn@1
	Differs []Difference `json:"differs,omitempty"`
}

// onlyTrial rolls a plan's transaction back.
type onlyTrial struct{}

// Error is never shown.
func (onlyTrial) Error() string { return "only a plan" }

// Plan runs the next n migrations, all where n is negative, in one transaction, reads what they did, and rolls back. Artifacts that are missing are
// uploaded for that, as up would.
func (r *Runner) Plan(ctx context.Context, n int) (*Plan, error) {
	var p *Plan
	_, err := r.run(ctx, func(s *session) error {
		to := s.files.above(s.report.From, n)
		p = &Plan{From: s.report.From, To: to, Migrations: []MigrationPlan{}, Uploaded: []string{}}
		s.late()
		p.Notes = s.report.Notes
		steps := s.files.between(s.report.From, to)
		for _, step := range steps {
			if err := step.check(step.up, step.text); err != nil {
				return err
			}
		}
		if err := s.edited(); err != nil {
			return err
		}
		if err := s.artifacts(steps); err != nil {
			return err
		}
		p.Uploaded = s.report.Uploaded
		return s.transaction(func(tx pgx.Tx) error {
			for _, step := range steps {
				m, err := s.try(tx, step)
				if err != nil {
					return err
				}
				p.Migrations = append(p.Migrations, *m)
			}
			return onlyTrial{}
		})
	})
	if errors.As(err, &onlyTrial{}) {
		err = nil
	}
	return p, err
}

// try runs one migration in tx and reads from the journal what it did.
func (s *session) try(tx pgx.Tx, p *pair) (*MigrationPlan, error) {
	if err := s.runUp(tx, p, p.text, p.version); err != nil {
		return nil, err
	}
	rows, err := db.New(tx).ChangeRows(s.ctx, p.change)
	if err != nil {
		return nil, postgres.Error(err)
	}
	t := trial{ctx: s.ctx, q: db.New(tx), net: map[string]*netRow{}}
	for _, r := range rows {
		if err := t.add(r); err != nil {
			return nil, err
		}
	}
	m := &MigrationPlan{Version: p.version, Name: p.change, Effects: []Effect{}}
	for _, key := range t.order {
		effects, err := t.effects(t.net[key])
		if err != nil {
			return nil, err
		}
		m.Effects = append(m.Effects, effects...)
	}
	return m, nil
}

// trial collects what a migration did: for each row only how it was before and how it is after.
type trial struct {
	ctx   context.Context
	q     *db.Queries
	net   map[string]*netRow
	order []string
}

type netRow struct {
	relation, model string
	before, after   map[string]*string // nil for no row
}

func (t *trial) add(r db.ChangeRowsRow) error {
	var before, after map[string]*string
	for _, side := range []struct {
		text json.RawMessage
		into *map[string]*string
	}{{r.Before, &before}, {r.After, &after}} {
		if len(side.text) == 0 {
			continue
		}
		if err := json.Unmarshal(side.text, side.into); err != nil {
			return rowcast.Errorf(rowcast.CodeInternal, "the journal cannot be read").WithCause(err)
		}
	}
	row := after
	if row == nil {
		row = before
	}
	parts := []string{r.Relation}
	for _, column := range []string{"id", "model_id", "alias", "grantee", "sha256", "name"} {
		if v := row[column]; v != nil {
			parts = append(parts, *v)
			if column == "id" {
				break
			}
		}
	}
	key := strings.Join(parts, "\x00")
	n := t.net[key]
	if n == nil {
		n = &netRow{relation: r.Relation, model: r.Model, before: before}
		t.net[key] = n
		t.order = append(t.order, key)
	}
	n.after = after
	return nil
}

func get(row map[string]*string, column string) string {
	if v := row[column]; v != nil {
		return *v
	}
	return ""
}

func number(text string) int {
	n, _ := strconv.Atoi(text)
	return n
}

// effects tells what became of one row.
func (t *trial) effects(n *netRow) ([]Effect, error) {
	sameText := func(a, b *string) bool { return a == b || a != nil && b != nil && *a == *b }
	if maps.EqualFunc(n.before, n.after, sameText) && (n.before == nil) == (n.after == nil) {
		return nil, nil
	}
	action, row := "changed", n.after
	switch {
	case n.before == nil:
		action = "added"
	case n.after == nil:
		action, row = "removed", n.before
	}
	e := Effect{Kind: n.relation, Action: action, Model: n.model}
	switch n.relation {
	case "alias_history":
		return nil, nil // told by the alias
	case "job":
		return nil, nil // forgets a model or schedule that was dropped; told by that
	case "model":
		if action == "changed" {
			return nil, nil // its count of versions; told by the version
		}
		e.To = get(row, "description")
	case "version":
		e.Version = number(get(row, "version"))
		if n.after != nil {
			e.Name = sha256Text(get(row, "sha256"))
			err := t.compare(&e, row)
			return []Effect{e}, err
		}
	case "alias":
		e.Name, e.From, e.To = get(row, "alias"), get(n.before, "version"), get(n.after, "version")
	case "model_grant":
		e.Kind, e.Name = "grant", get(row, "grantee")
		if e.Name == "-" {
			e.Name = "PUBLIC"
		}
	case "artifact":
		if n.before == nil {
			return nil, nil // told by the version
		}
		e.Name, e.From, e.To = sha256Text(get(row, "sha256")), get(n.before, "quarantine_reason"), get(n.after, "quarantine_reason")
	default:
		e.Name = cmp.Or(get(row, "name"), get(row, "id"))
	}
	return []Effect{e}, nil
}

// sha256Text is a hash as people write it.
func sha256Text(bytea string) string {
	if len(bytea) > 2 {
		return bytea[2:]
	}
	return bytea
}

// compare says how a new version differs from the champion that the model had before the migration.
func (t *trial) compare(e *Effect, row map[string]*string) error {
	version := t.champion(e.Model, get(row, "model_id"))
	if version == 0 || version == e.Version {
		return nil
	}
	var old, added rowcast.Signature
	versions, err := t.q.Versions(t.ctx, e.Model)
	if err != nil {
		return postgres.Error(err)
	}
	at := slices.IndexFunc(versions, func(v db.VersionsRow) bool { return int(v.Version) == version })
	if at < 0 {
		return nil
	}
	for _, side := range []struct {
		text []byte
		into *rowcast.Signature
	}{{versions[at].Signature, &old}, {[]byte(get(row, "signature")), &added}} {
		if err := json.Unmarshal(side.text, side.into); err != nil {
			return rowcast.Errorf(rowcast.CodeArtifactCorrupt, "a signature of model %q cannot be read", e.Model).WithCause(err)
		}
	}
	e.Against = registry.VersionRef(e.Model, version)
	e.Differs = signatureDifferences(&old, &added)
	return nil
}

// champion is the version that was the model's champion before the migration, 0 for none.
func (t *trial) champion(model, modelID string) int {
	if n := t.net["alias\x00"+modelID+"\x00champion"]; n != nil {
		return number(get(n.before, "version"))
	}
	m, err := t.q.ModelNamed(t.ctx, model)
	if err != nil || m.Champion == nil {
		return 0
	}
	return int(*m.Champion)
}

func sorted(changes map[string]db.ChangesRow) []db.ChangesRow {
	return slices.SortedFunc(maps.Values(changes), func(a, b db.ChangesRow) int { return cmp.Compare(a.Name, b.Name) })
}

// String tells the effect in one line.
func (e *Effect) String() string {
	switch e.Kind {
	case "model":
		return fmt.Sprintf("model %s %s", e.Model, e.Action)
	case "version":
		if e.Action == "removed" {
			return fmt.Sprintf("%s version %d removed", e.Model, e.Version)
		}
		return fmt.Sprintf("%s version %d registered (SHA-256 %s)", e.Model, e.Version, e.Name)
	case "alias":
		switch e.Action {
		case "added":
			return fmt.Sprintf("%s@%s is version %s", e.Model, e.Name, e.To)
		case "removed":
			return fmt.Sprintf("%s@%s taken away (was version %s)", e.Model, e.Name, e.From)
		}
		return fmt.Sprintf("%s@%s from version %s to %s", e.Model, e.Name, e.From, e.To)
	case "grant":
		if e.Action == "added" {
			return fmt.Sprintf("%s granted to %s", e.Model, e.Name)
		}
		return fmt.Sprintf("%s revoked from %s", e.Model, e.Name)
	case "artifact":
		return fmt.Sprintf("artifact %s released from quarantine", e.Name)
	}
	return fmt.Sprintf("%s %q %s", e.Kind, e.Name, e.Action)
}
