package server

import (
	"context"
	"crypto/sha256"
	"encoding/json"

	"github.com/rowcast/rowcast/internal/predict"
	"github.com/rowcast/rowcast/internal/registry"
	"github.com/rowcast/rowcast/internal/rowcast"
)

// validator judges artifacts for the gateway. What it accepts it offers to the engine, so that the transaction that registers a model can use it
// before its commit.
type validator struct {
	store  *registry.Store
	engine *predict.Engine
	limits registry.Limits
}

// ValidateUpload validates bytes that came through the gateway. converted is the ONNX that they were turned into, nil where they are ONNX.
func (v *validator) ValidateUpload(ctx context.Context, artifact, options []byte) (report, converted []byte, err error) {
	o, err := registry.ParseJSON(options)
	if err != nil {
		return nil, nil, err
	}
	r, err := registry.Validate(ctx, artifact, o, v.limits)
	if err != nil {
		return nil, nil, err
	}
	model := artifact
	if r.Source != nil {
		model = r.Converted
	}
	v.engine.Offer(&rowcast.Spec{Key: r.Key, SHA256: sha256.Sum256(model), Size: r.Size, Signature: r.Signature, Example: r.Example}, model)
	report, err = json.Marshal(r)
	return report, r.Converted, err
}

// ValidateStored validates an artifact that is committed already.
func (v *validator) ValidateStored(ctx context.Context, sha [32]byte, options []byte) (report, converted []byte, err error) {
	size, err := v.store.ArtifactSize(ctx, sha)
	if err != nil {
		return nil, nil, err
	}
	artifact, verify, err := v.store.Artifact(ctx, sha, size)
	if err != nil {
		return nil, nil, err
	}
	if err := verify(); err != nil {
		return nil, nil, err
	}
	return v.ValidateUpload(ctx, artifact, options)
}
