-- Takes back what 000003_penguins.up.sql did, or says why that cannot be.
SELECT ml.revert_change('000003_penguins');
