-- A little of everything, with each call: new rows, changed rows, and now and then one that goes.
BEGIN;
INSERT INTO customers (id, name) SELECT gen_random_uuid(), 'Customer ' || n FROM generate_series(1, 2) n;
INSERT INTO orders (id, customer_id, amount, details)
	SELECT (SELECT coalesce(max(id), 0) FROM orders) + n, c.id, round((random() * 100)::numeric, 2), jsonb_build_object('n', n)
	FROM generate_series(1, 5) n, (SELECT id FROM customers LIMIT 1) c;
UPDATE orders SET amount = amount + 1, updated_at = now() WHERE id IN (SELECT id FROM orders TABLESAMPLE SYSTEM (5) LIMIT 5);
DELETE FROM orders WHERE id IN (SELECT id FROM orders TABLESAMPLE SYSTEM (1) LIMIT 1);
COMMIT;
