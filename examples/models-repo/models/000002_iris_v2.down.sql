-- Takes back what 000002_iris_v2.up.sql did, or says why that cannot be.
SELECT ml.revert_change('000002_iris_v2');
