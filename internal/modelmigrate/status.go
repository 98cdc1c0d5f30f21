package modelmigrate

import (
	"context"
	"errors"
	"time"

	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// State says where a migration stands.
type State string

// The states of a migration.
const (
	StatePending  State = "pending"
	StateApplied  State = "applied"
	StateEdited   State = "edited"   // applied; the file is not what ran
	StateUnproven State = "unproven" // applied by a tool that sent it piece by piece: whether the file is what ran is not known
	StateNoRecord State = "no record"
	StateNoFile   State = "no file" // made in the database, but not in the folder
)

// Status is where a database and a folder stand.
type Status struct {
	Version    int               `json:"version"`
	Latest     int               `json:"latest"`
	Dirty      bool              `json:"dirty"`
	Migrations []MigrationStatus `json:"migrations"`
	Advice     string            `json:"advice,omitempty"`
}

// MigrationStatus is where one migration stands.
type MigrationStatus struct {
	Version   int              `json:"version,omitempty"`
	Name      string           `json:"name"` // 000002_churn_v2
	State     State            `json:"state"`
	AppliedAt *time.Time       `json:"applied_at,omitempty"`
	AppliedBy string           `json:"applied_by,omitempty"`
	Artifacts []ArtifactStatus `json:"artifacts,omitempty"`
}

// ArtifactStatus is where the bytes of an artifact are that a pending migration names.
type ArtifactStatus struct {
	SHA256   string `json:"sha256"`
	File     string `json:"file,omitempty"`
	Pointer  string `json:"lfs_pointer,omitempty"`
	Uploaded bool   `json:"uploaded"`
}

// Status reads where everything stands, without a lock.
func (r *Runner) Status(ctx context.Context) (*Status, error) {
	files, err := readFolder(r.o.Dir)
	if err != nil {
		return nil, err
	}
	pool, err := postgres.Open(ctx, r.url, postgres.OpenOptions{ApplicationName: applicationName, MaxConns: 1})
	if err != nil {
		return nil, err
	}
	defer pool.Close()
	s := &Status{Latest: files.latest(), Migrations: []MigrationStatus{}}
	if s.Version, s.Dirty, err = r.readVersion(ctx, pool); err != nil {
		return nil, err
	}
	changes, err := readChanges(ctx, pool)
	if err != nil {
		return nil, err
	}
	catalog, lib := registry.NewCatalog(pool), &library{dir: r.o.Dir}
	for _, p := range files.pairs {
		m := MigrationStatus{Version: p.version, Name: p.change, State: StatePending}
		c, made := changes[p.change]
		delete(changes, p.change)
		switch {
		case p.version > s.Version && !made:
			if m.Artifacts, err = artifactStates(ctx, catalog, lib, p); err != nil {
				return nil, err
			}
		case !made:
			m.State = StateNoRecord
		case c.Checksum == "":
			m.State = StateUnproven
		case c.Checksum != p.checksum:
			m.State = StateEdited
		default:
			m.State = StateApplied
		}
		if made {
			m.AppliedAt, m.AppliedBy = &c.BegunAt, c.BegunBy
		}
		s.Migrations = append(s.Migrations, m)
	}
	if r.o.Table == DefaultTable {
		for _, c := range sorted(changes) {
			s.Migrations = append(s.Migrations, MigrationStatus{Name: c.Name, State: StateNoFile, AppliedAt: &c.BegunAt, AppliedBy: c.BegunBy})
		}
	}
	if s.Dirty {
		session := &session{Runner: r, ctx: ctx, files: files, report: Report{From: s.Version}}
		if session.changes, err = readChanges(ctx, pool); err != nil {
			return nil, err
		}
		var e *rowcast.Error
		if errors.As(session.explainDirty(), &e) {
			s.Advice = e.Message + ". " + e.Detail + " " + e.Hint
		}
	}
	return s, nil
}

func artifactStates(ctx context.Context, catalog *registry.Catalog, lib *library, p *pair) ([]ArtifactStatus, error) {
	var list []ArtifactStatus
	for _, sha := range p.artifacts() {
		missing, err := catalog.Missing(ctx, sha)
		if err != nil {
			return nil, err
		}
		a := ArtifactStatus{SHA256: sha, Uploaded: missing == 0}
		if a.File, a.Pointer, err = lib.find(ctx, sha); err != nil {
			return nil, err
		}
		list = append(list, a)
	}
	return list, nil
}
