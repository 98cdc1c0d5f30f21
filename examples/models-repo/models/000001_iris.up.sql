-- Registers artifacts/iris-7f4d3c0939cc.onnx as the next version of iris.
-- 8067 bytes; `rowcast model migration up` uploads them, `rowcast model upload` does so for the tool migrate.
SELECT ml.begin_change('000001_iris');

SELECT ml.register_artifact('iris',
    sha256 => '7f4d3c0939cc9b514e8ba68ab17f88d99dbddd7176d8d967f6a79b529e06c2cc',
    options => '{
  "description": "Random forest; probabilities as a sequence of maps (ZipMap).",
  "task": "classification",
  "inputs": "matrix",
  "features": [
    {"name":"sepal_length","type":"real"},
    {"name":"sepal_width","type":"real"},
    {"name":"petal_length","type":"real"},
    {"name":"petal_width","type":"real"}
  ],
  "labels": ["setosa","versicolor","virginica"],
  "target": "species",
  "trained_with": "scikit-learn"
}');
