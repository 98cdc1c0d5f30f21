package registry

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/rowcast/rowcast/db"
	"github.com/rowcast/rowcast/internal/postgres"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// Champion is the alias that a bare model name means.
const Champion = "champion"

// Model is a model with everything that `rowcast model show` tells.
type Model struct {
	db.ModelNamedRow
	Grants   []string             `json:"grants"`
	Versions []db.VersionsRow     `json:"versions"`
	History  []db.AliasHistoryRow `json:"alias_history"`
}

// Models lists the models that the role may use.
func (c *Catalog) Models(ctx context.Context) ([]db.ModelsRow, error) {
	rows, err := c.q.Models(ctx)
	return rows, postgres.Error(err)
}

// Model returns a model with its versions, newest first, and the history of its aliases, oldest first. CodeNotFound or CodeNotPermitted as the SQL
// functions say it.
func (c *Catalog) Model(ctx context.Context, name string) (*Model, error) {
	row, err := c.q.ModelNamed(ctx, name)
	if err != nil {
		return nil, c.refusal(ctx, name, err)
	}
	m := &Model{ModelNamedRow: row}
	if m.Versions, err = c.q.Versions(ctx, name); err != nil {
		return nil, postgres.Error(err)
	}
	if m.Grants, err = c.q.Grants(ctx, name); err != nil {
		return nil, postgres.Error(err)
	}
	m.History, err = c.q.AliasHistory(ctx, name)
	return m, postgres.Error(err)
}

// Resolve finds the version that a reference ('churn', 'churn@3', 'churn@alias') means now.
func (c *Catalog) Resolve(ctx context.Context, ref string) (name string, version db.VersionsRow, err error) {
	name, at, _ := strings.Cut(ref, "@")
	if at == "" {
		at = Champion
	}
	rows, err := c.q.Versions(ctx, name)
	if err != nil {
		return "", version, postgres.Error(err)
	}
	number, numeric := strconv.Atoi(at)
	for _, v := range rows {
		if numeric == nil && int(v.Version) == number || slices.Contains(v.Aliases, at) {
			return name, v, nil
		}
	}
	return "", version, c.refusal(ctx, ref, nil)
}

// refusal asks the database why it does not show what ref names: it knows the nearest names and the rights.
func (c *Catalog) refusal(ctx context.Context, ref string, err error) error {
	if _, cerr := c.q.ModelChunk(ctx, db.ModelChunkParams{Model: ref, Number: 0}); cerr != nil {
		return postgres.Error(cerr)
	}
	if err == nil {
		return rowcast.Errorf(rowcast.CodeNotFound, "%s does not exist", ref)
	}
	return postgres.Error(err)
}

// VersionRef writes the reference to a version, churn@3.
func VersionRef(name string, version int) string { return fmt.Sprintf("%s@%d", name, version) }

// SetAlias points an alias at a version.
func (c *Catalog) SetAlias(ctx context.Context, model, alias string, version int) error {
	return postgres.Error(c.q.SetAlias(ctx, db.SetAliasParams{Model: model, Alias: alias, Version: int32(version)}))
}

// DropAlias takes an alias away.
func (c *Catalog) DropAlias(ctx context.Context, model, alias string) error {
	return postgres.Error(c.q.DropAlias(ctx, db.DropAliasParams{Model: model, Alias: alias}))
}

// Promote makes a version the champion.
func (c *Catalog) Promote(ctx context.Context, model string, version int) error {
	return postgres.Error(c.q.Promote(ctx, db.PromoteParams{Model: model, Version: int32(version)}))
}

// Rollback takes an alias one step back along its history and returns the version it points to then.
func (c *Catalog) Rollback(ctx context.Context, model, alias string) (int, error) {
	v, err := c.q.Rollback(ctx, db.RollbackParams{Model: model, Alias: alias})
	return int(v), postgres.Error(err)
}

// DropVersion deletes a version that no alias points to.
func (c *Catalog) DropVersion(ctx context.Context, model string, version int) error {
	return postgres.Error(c.q.DropVersion(ctx, db.DropVersionParams{Model: model, Version: int32(version)}))
}

// DropModel deletes a model with everything that belongs to it.
func (c *Catalog) DropModel(ctx context.Context, model string) error {
	return postgres.Error(c.q.DropModel(ctx, model))
}

// ReleaseVersion lifts the quarantine of a version.
func (c *Catalog) ReleaseVersion(ctx context.Context, model string, version int) error {
	return postgres.Error(c.q.ReleaseVersion(ctx, db.ReleaseVersionParams{Model: model, Version: int32(version)}))
}

// Grant lets a role, or PUBLIC, use a model.
func (c *Catalog) Grant(ctx context.Context, model, role string) error {
	return postgres.Error(c.q.GrantModel(ctx, db.GrantModelParams{Model: model, Role: role}))
}

// Revoke takes back what Grant gave.
func (c *Catalog) Revoke(ctx context.Context, model, role string) error {
	return postgres.Error(c.q.RevokeModel(ctx, db.RevokeModelParams{Model: model, Role: role}))
}

// RotateGateway gives the gateway a new password and signing key.
func (c *Catalog) RotateGateway(ctx context.Context) error {
	return postgres.Error(c.q.RotateGateway(ctx))
}
