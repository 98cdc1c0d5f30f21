-- Registers artifacts/penguins-cbbacc32d5b0.onnx as the next version of penguins.
-- 1739 bytes; `rowcast model migration up` uploads them, `rowcast model upload` does so for the tool migrate.
SELECT ml.begin_change('000003_penguins');

SELECT ml.register_artifact('penguins',
    sha256 => 'cbbacc32d5b097119dc4d4d7bdf4f07270e6f213af42d4b415b378c80b0b6387',
    options => '{
  "description": "A pipeline with one input per column: text, missing numbers (imputed), integers; text labels.",
  "task": "classification",
  "inputs": "columns",
  "features": [
    {"name":"island","type":"text"},
    {"name":"bill_length_mm","type":"real","missing":true},
    {"name":"bill_depth_mm","type":"real","missing":true},
    {"name":"flipper_length_mm","type":"real","missing":true},
    {"name":"body_mass_g","type":"real","missing":true},
    {"name":"sex","type":"text","default":"unknown"},
    {"name":"year","type":"bigint"}
  ],
  "labels": ["Adelie","Chinstrap","Gentoo"],
  "target": "species",
  "trained_with": "scikit-learn"
}');
SELECT ml.grant_model('penguins', 'PUBLIC');

-- Whatever else the SQL API does goes along: iris is for everybody from here on, and its first version stays within reach.
SELECT ml.grant_model('iris', 'PUBLIC');
SELECT ml.set_alias('iris', 'previous', 1);
