-- The same on both sides: the sink creates no tables here, so that every column is of the source's type.
CREATE TABLE customers (
	id uuid PRIMARY KEY,
	name text NOT NULL,
	tags text[] NOT NULL DEFAULT '{}',
	updated_at timestamptz NOT NULL DEFAULT now()
);
CREATE TABLE orders (
	id bigint PRIMARY KEY,
	customer_id uuid NOT NULL,
	amount numeric(12,2) NOT NULL,
	details jsonb NOT NULL,
	updated_at timestamptz NOT NULL DEFAULT now()
);

-- Carried like any table, it says how far replication has come.
CREATE SCHEMA IF NOT EXISTS trickle;
CREATE TABLE IF NOT EXISTS trickle.heartbeat (pipeline text PRIMARY KEY, at timestamptz NOT NULL, timeline bigint NOT NULL);
