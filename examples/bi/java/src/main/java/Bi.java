import java.sql.Connection;
import java.sql.DatabaseMetaData;
import java.sql.DriverManager;
import java.sql.PreparedStatement;
import java.sql.ResultSet;
import java.sql.ResultSetMetaData;
import java.sql.SQLException;
import java.time.OffsetDateTime;

/**
 * What a BI tool does with a view of schema ml_bi: find it, read its columns with their types and comments, and query it with typed values.
 *
 * <p>The environment names the database: JDBC_URL, PGUSER and PGPASSWORD. Arguments: the name of the model. Prints tab-separated lines.
 */
public final class Bi {
    private Bi() {}

    public static void main(String[] args) throws SQLException {
        String model = args[0];
        try (Connection c = DriverManager.getConnection(System.getenv("JDBC_URL"), System.getenv("PGUSER"), System.getenv("PGPASSWORD"))) {
            DatabaseMetaData meta = c.getMetaData();
            try (ResultSet t = meta.getTables(null, "ml_bi", null, new String[] {"VIEW"})) {
                while (t.next()) {
                    print("view", t.getString("TABLE_SCHEM"), t.getString("TABLE_NAME"), t.getString("REMARKS"));
                }
            }
            try (ResultSet t = meta.getColumns(null, "ml_bi", model, null)) {
                while (t.next()) {
                    print("column", t.getString("COLUMN_NAME"), t.getString("TYPE_NAME"), t.getString("DATA_TYPE"), t.getString("ORDINAL_POSITION"), t.getString("REMARKS"));
                }
            }
            String sql = "SELECT * FROM ml_bi." + meta.getIdentifierQuoteString() + model + meta.getIdentifierQuoteString()
                + " WHERE predicted_at > ? AND version = ? ORDER BY key";
            try (PreparedStatement s = c.prepareStatement(sql)) {
                s.setObject(1, OffsetDateTime.now().minusHours(1));
                s.setInt(2, 1);
                try (ResultSet r = s.executeQuery()) {
                    ResultSetMetaData columns = r.getMetaData();
                    while (r.next()) {
                        String[] row = new String[columns.getColumnCount() + 1];
                        row[0] = "row";
                        for (int i = 1; i <= columns.getColumnCount(); i++) {
                            // The value as the class that the driver maps the type to: Float, Double, Long, Boolean, String, Integer, Timestamp.
                            Object value = r.getObject(i);
                            row[i] = value == null ? "null" : value.getClass().getSimpleName() + ":" + value;
                        }
                        print(row);
                    }
                }
            }
        }
    }

    private static void print(String... fields) {
        System.out.println(String.join("\t", fields));
    }
}
