-- Takes back what 000001_iris.up.sql did, or says why that cannot be.
SELECT ml.revert_change('000001_iris');
