package debezium

import (
	"strings"

	"github.com/trickle-verify/trickle/message"
	"github.com/trickle-verify/trickle/message/tricklepb"
	"github.com/trickle-verify/trickle/postgres"
)

// Filter is the SQL condition that a row of the source meets if its key lies in the range, (lo, hi], and the policy's condition holds; empty where every row does. It is
// self-contained, since Debezium puts it behind a condition of its own: in brackets, every literal quoted and cast, every column quoted.
func Filter(schema *tricklepb.Schema, r message.Range) string {
	types := make(map[string]string, len(schema.GetColumns()))
	for _, c := range schema.GetColumns() {
		types[c.GetName()] = c.GetDeclared()
	}
	builtIn := true
	columns := make([]string, len(schema.GetKey()))
	for i, name := range schema.GetKey() {
		columns[i] = postgres.Quote(name)
		builtIn = builtIn && strings.HasPrefix(types[name], "pg_catalog.")
	}
	var conds []string
	bound := func(op string, k message.Key) {
		if k == nil {
			return
		}
		values := make([]string, len(k))
		for i, v := range k {
			values[i] = postgres.Literal(v)
			if i < len(columns) {
				values[i] += "::" + cast(types[schema.GetKey()[i]])
			}
		}
		// Operators that are found by their name may be somebody's own, and would run as Debezium's role: see package postgres.
		if builtIn {
			op = "OPERATOR(pg_catalog." + op + ")"
		}
		conds = append(conds, "("+strings.Join(columns, ", ")+") "+op+" ("+strings.Join(values, ", ")+")")
	}
	bound(">", r.Lo)
	bound("<=", r.Hi)
	if where := schema.GetWhere(); where != "" {
		conds = append(conds, "("+where+")")
	}
	if len(conds) == 0 {
		return ""
	}
	return "(" + strings.Join(conds, " AND ") + ")"
}

// cast is the type that a bound of a column is read as. Integers are read as the widest: a bound may lie beyond what the column can hold.
func cast(declared string) string {
	switch declared {
	case "pg_catalog.int2", "pg_catalog.int4":
		declared = "pg_catalog.int8"
	}
	return postgres.ParseName(declared).SQL()
}
