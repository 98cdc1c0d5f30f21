package convert

import (
	"bytes"
	"encoding/json"
)

// Import is a model file of any format, turned into ONNX.
type Import struct {
	Result
	Format  Format          // mlflow-onnx, mlflow-xgboost or mlflow-lightgbm for a folder
	Example json.RawMessage // a row as an array, or {"inputs": …}; nil where the file has none
	Tags    map[string]any
}

// From turns a model file into ONNX. For an ONNX file it says nothing but its format and bytes. Errors: CodeArtifactRefused with the reason, and the
// line that converts the model where there is one; CodeTooLarge.
func From(data []byte) (*Import, error) {
	format, err := Detect(bytes.NewReader(data), int64(len(data)))
	if err != nil {
		return nil, err
	}
	if format == FormatMLflow {
		return fromMLflow(data)
	}
	r, err := fromFormat(format, data)
	if err != nil {
		return nil, err
	}
	return &Import{Result: *r, Format: format}, nil
}

func fromFormat(format Format, data []byte) (*Result, error) {
	switch format {
	case FormatXGBoostJSON, FormatXGBoostUBJ:
		return XGBoost(data)
	case FormatLightGBM:
		return LightGBM(data)
	}
	return &Result{ONNX: data}, nil
}
