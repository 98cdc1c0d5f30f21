-- Three real tables, each with what the framework that trained the model predicted for it.
CREATE TABLE iris (id bigint PRIMARY KEY, sepal_length real, sepal_width real, petal_length real, petal_width real, species text);
CREATE TABLE diabetes (id bigint PRIMARY KEY, age real, sex real, bmi real, bp real, s1 real, s2 real, s3 real, s4 real, s5 real, s6 real, progression real);
CREATE TABLE penguins (id bigint PRIMARY KEY, island text, bill_length_mm real, bill_depth_mm real, flipper_length_mm real, body_mass_g real, sex text,
    year bigint, species text);
\copy iris FROM 'models/iris/data.csv' (FORMAT csv, HEADER)
\copy diabetes FROM 'models/diabetes/data.csv' (FORMAT csv, HEADER)
\copy penguins FROM 'models/penguins/data.csv' (FORMAT csv, HEADER)

CREATE SCHEMA expected;
CREATE TABLE expected.iris (id bigint PRIMARY KEY, label text, setosa double precision, versicolor double precision, virginica double precision);
CREATE TABLE expected.iris_v2 (LIKE expected.iris);
CREATE TABLE expected.diabetes (id bigint PRIMARY KEY, value double precision);
CREATE TABLE expected.penguins (id bigint PRIMARY KEY, label text, adelie double precision, chinstrap double precision, gentoo double precision);
\copy expected.iris FROM 'models/iris/expected.csv' (FORMAT csv, HEADER)
\copy expected.iris_v2 FROM 'models/iris_v2/expected.csv' (FORMAT csv, HEADER)
\copy expected.diabetes FROM 'models/diabetes/expected.csv' (FORMAT csv, HEADER)
\copy expected.penguins FROM 'models/penguins/expected.csv' (FORMAT csv, HEADER)
ANALYZE;
