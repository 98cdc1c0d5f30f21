package server_test

import (
	"context"
	"fmt"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestPredictRowsEqualsPredict(t *testing.T) {
	s := start(t)
	conn := s.Conn(t)
	for _, folder := range folders(t) {
		o := options(t, folder)
		if o.Name == "tensors" {
			continue
		}
		s.register(t, folder)
		types := map[string]string{"id": "bigint"}
		for _, f := range o.Features {
			types[f.Name] = string(f.Type)
		}
		load(t, conn, o.Name, folder+"/data.csv", types)
		rows := fmt.Sprintf("predict_rows('%s', 'SELECT * FROM %s', NULL::bigint)", o.Name, o.Name)
		var all, rightVersion, label, prediction int
		require.NoError(t, conn.QueryRow(context.Background(), fmt.Sprintf(`SELECT count(*), count(*) FILTER (WHERE version = 1), count(label), count(prediction)
			FROM %s`, rows)).Scan(&all, &rightVersion, &label, &prediction), o.Name)
		require.Equal(t, all, one[int](t, conn, "SELECT count(*) FROM "+o.Name))
		require.Equal(t, all, rightVersion)
		require.Equal(t, 0, min(label, prediction)*(max(label, prediction)-all))
		if label > 0 {
			require.Equal(t, all, label)
			require.Equal(t, 0, one[int](t, conn, fmt.Sprintf(`SELECT count(*) FROM (SELECT r.label, predict_label('%s', t) AS single
				FROM %s AS r JOIN (SELECT * FROM %s ORDER BY id LIMIT 200) t ON t.id = r.key) x WHERE label IS DISTINCT FROM single`, o.Name, rows, o.Name)), o.Name)
		}
		if prediction > 0 {
			require.Equal(t, all, prediction)
			require.Equal(t, 0, one[int](t, conn, fmt.Sprintf(`SELECT count(*) FROM (SELECT r.prediction, predict('%s', t) AS single
				FROM %s AS r JOIN (SELECT * FROM %s ORDER BY id LIMIT 200) t ON t.id = r.key) x WHERE prediction IS DISTINCT FROM single`, o.Name, rows, o.Name)), o.Name)
		}
	}
}
