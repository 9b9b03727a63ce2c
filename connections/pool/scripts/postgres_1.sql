-- The pool in PostgreSQL: its tables, and one function for each step.
--
-- A migration runs this file, so a released file never changes: a release that
-- changes a step adds functions with a new number, and nodes of the previous release
-- go on calling theirs. `format` in the state names the format of the rows.
--
-- Each step is one statement and one transaction, so a node that is frozen or killed
-- holds no lock, and any pooler serves. Leases are timed by the clock of PostgreSQL.
-- Steps commit without waiting for the disk: what a crash of PostgreSQL loses of the
-- last second, nodes report again with their next renewal.
--
-- A slot lives with the lease of its node, which one row holds: a renewal writes one
-- row, however many slots the node has. A lease ends when another node finds it
-- expired and deletes it under its row lock, so it cannot be renewed meanwhile.
--
-- The total has no single hot row. The lease of a node holds how many slots the node
-- has (`used`) and how many it may have (`granted`); all `granted` together are at
-- most max_total_connections. A node with room takes a slot in its own row. One
-- without room takes the lock of the total, and gets places that no node has been
-- granted, or that others do not use: so the pool is full only when every slot is
-- taken, and nodes meet at one lock only near the limit.
--
-- Locks are taken in this order: those of clients, by key; that of the total; rows
-- of leases, by lease_id; rows of slots. So no two steps wait for each other.
--
-- The states of the pool and of a slot are those of prelude.lua.

CREATE TABLE connections_pool_state (
  id smallint PRIMARY KEY CHECK (id = 1),
  format smallint NOT NULL DEFAULT 1,
  recovering_until timestamptz
);

CREATE TABLE connections_pool_lease (
  lease_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  node_id text NOT NULL UNIQUE,
  expires_at timestamptz NOT NULL,
  granted integer NOT NULL DEFAULT 0,
  used integer NOT NULL DEFAULT 0
) WITH (fillfactor = 20);

CREATE TABLE connections_pool_slot (
  connection_id text COLLATE "C" PRIMARY KEY,
  lease_id bigint NOT NULL,
  client_id text COLLATE "C" NOT NULL,
  node_id text NOT NULL,
  opened_at double precision NOT NULL,
  slot_limit integer NOT NULL,
  since timestamptz NOT NULL,
  -- Empty: the slot is leased. Else it is a tombstone: "evicted" or "replaced".
  taken_for text NOT NULL DEFAULT ''
) WITH (autovacuum_vacuum_scale_factor = 0.05, autovacuum_vacuum_threshold = 1000);

CREATE INDEX connections_pool_slot_client
  ON connections_pool_slot (client_id, opened_at, connection_id) WHERE taken_for = '';
CREATE INDEX connections_pool_slot_lease ON connections_pool_slot (lease_id);
CREATE INDEX connections_pool_slot_tomb
  ON connections_pool_slot (since) WHERE taken_for <> '';

INSERT INTO connections_pool_state (id) VALUES (1);

-- Messages of the bus that are too long for NOTIFY. Its rows live for a minute.
CREATE TABLE connections_bus_message (
  message_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  payload text NOT NULL,
  sent_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX connections_bus_message_sent ON connections_bus_message (sent_at);

-- Lock clients, in the order of their keys.
CREATE FUNCTION connections_pool_lock_clients_1(p_clients text[]) RETURNS void
LANGUAGE plpgsql AS $$
DECLARE
  key bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  FOR key IN
    SELECT DISTINCT hashtextextended('orchestra pool client ' || client, 0) AS hashed
    FROM unnest(p_clients) AS client ORDER BY hashed
  LOOP
    PERFORM pg_advisory_xact_lock(key);
  END LOOP;
END $$;

CREATE FUNCTION connections_pool_lock_total_1() RETURNS void
LANGUAGE plpgsql AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM pg_advisory_xact_lock(hashtextextended('orchestra pool total', 0));
  PERFORM 1 FROM connections_pool_lease ORDER BY lease_id FOR UPDATE;
END $$;

-- Return true while nodes report their slots; the end is never more than a lease
-- away, unless the clock went back.
CREATE FUNCTION connections_pool_is_recovering_1(p_lease interval) RETURNS boolean
LANGUAGE plpgsql AS $$
DECLARE
  state connections_pool_state;
BEGIN
  SELECT * INTO state FROM connections_pool_state;
  IF state.format > 1 THEN
    RAISE EXCEPTION 'the pool in PostgreSQL has format %, written by a newer release;'
      ' this one reads format 1', state.format;
  END IF;
  RETURN coalesce(clock_timestamp() < state.recovering_until
    AND state.recovering_until <= clock_timestamp() + p_lease, false);
END $$;

-- Take slots away, leave tombstones and notify their nodes, except one that learns
-- of it by the reply. Their places go to the lease p_to, or back to the total (null).
-- The clients and all leases concerned are locked.
CREATE FUNCTION connections_pool_take_away_1(
  p_ids text[], p_reason text, p_to bigint, p_channels text, p_node text)
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  part record;
BEGIN
  FOR part IN
    WITH taken AS (
      UPDATE connections_pool_slot
      SET taken_for = p_reason, since = clock_timestamp()
      WHERE connection_id = ANY(p_ids) AND taken_for = ''
      RETURNING lease_id, node_id, connection_id
    )
    SELECT lease_id, node_id, array_agg(connection_id) AS ids, count(*)::int AS size
    FROM taken GROUP BY lease_id, node_id
  LOOP
    UPDATE connections_pool_lease
    SET used = used - part.size, granted = granted - part.size
    WHERE lease_id = part.lease_id;
    UPDATE connections_pool_lease SET granted = granted + part.size
    WHERE lease_id = p_to;
    IF part.node_id IS DISTINCT FROM p_node THEN
      FOR start IN 1 .. part.size BY 100 LOOP
        PERFORM pg_notify(p_channels || 'node:' || part.node_id, json_build_object(
          'kind', 'taken', 'reason', p_reason, 'ids', part.ids[start:start + 99])::text);
      END LOOP;
    END IF;
  END LOOP;
END $$;

-- Grant a lease more places; return false if every slot is taken. The total and all
-- leases are locked.
CREATE FUNCTION connections_pool_grant_1(p_lease_id bigint, p_max integer, p_least integer)
RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE
  free integer;
  wanted integer;
  other record;
BEGIN
  SELECT p_max - greatest(sum(used), p_least),
    (p_max - sum(used)) / (2 * count(*)) INTO free, wanted
  FROM connections_pool_lease;
  IF free <= 0 THEN
    RETURN false;
  END IF;
  IF EXISTS (SELECT FROM connections_pool_lease
    WHERE lease_id = p_lease_id AND granted > used)
  THEN
    RETURN true;
  END IF;
  wanted := greatest(wanted, 1);
  -- A recovery leaves leases with more slots than they were granted.
  SELECT p_max - sum(greatest(granted, used)) INTO free FROM connections_pool_lease;
  FOR other IN
    SELECT lease_id, granted - used AS unused FROM connections_pool_lease
    WHERE lease_id <> p_lease_id AND granted > used ORDER BY unused DESC
  LOOP
    EXIT WHEN free >= wanted;
    UPDATE connections_pool_lease
    SET granted = granted - least(other.unused, wanted - free)
    WHERE lease_id = other.lease_id;
    free := free + least(other.unused, wanted - free);
  END LOOP;
  UPDATE connections_pool_lease
  SET granted = greatest(granted, used) + least(free, wanted)
  WHERE lease_id = p_lease_id AND free > 0;
  RETURN free > 0;
END $$;

-- Do what other steps find to be due: begin a recovery, end leases that have expired,
-- and give this node a lease.
CREATE FUNCTION connections_pool_prepare_1(
  p_lease interval, p_channels text, p_node text, p_lost text)
RETURNS void LANGUAGE plpgsql SET lock_timeout TO '900ms' AS $$
DECLARE
  expired bigint[];
  lost text := p_lost;
BEGIN
  PERFORM connections_pool_lock_total_1();
  IF NOT EXISTS (SELECT FROM connections_pool_state) THEN
    INSERT INTO connections_pool_state (id) VALUES (1);
    lost := 'all slots';
  END IF;
  -- The clock went back: such a lease would end too late. Nodes may differ in the
  -- lengths of their leases.
  UPDATE connections_pool_lease SET expires_at = clock_timestamp() + p_lease
  WHERE expires_at > clock_timestamp() + 2 * p_lease;
  SELECT array_agg(lease_id) INTO expired
  FROM connections_pool_lease WHERE expires_at <= clock_timestamp();
  IF expired IS NOT NULL AND NOT EXISTS (
    SELECT FROM connections_pool_lease WHERE expires_at > clock_timestamp())
  THEN
    -- PostgreSQL stood still, or its clock went forward: the nodes could not renew.
    UPDATE connections_pool_lease SET expires_at = clock_timestamp() + p_lease / 2;
    PERFORM pg_notify(p_channels || 'all', '{"kind": "renew"}');
  ELSIF expired IS NOT NULL THEN
    DELETE FROM connections_pool_slot WHERE taken_for = '' AND lease_id IN (
      SELECT lease_id FROM connections_pool_lease
      WHERE lease_id = ANY(expired) AND node_id <> p_node);
    DELETE FROM connections_pool_lease
    WHERE lease_id = ANY(expired) AND node_id <> p_node;
  END IF;
  -- No other node has ended the lease of this one, so its slots still count.
  INSERT INTO connections_pool_lease (node_id, expires_at)
  VALUES (p_node, clock_timestamp() + p_lease)
  ON CONFLICT (node_id) DO UPDATE SET expires_at = excluded.expires_at;
  IF lost <> '' THEN
    UPDATE connections_pool_state SET recovering_until = clock_timestamp() + p_lease / 3;
    DELETE FROM connections_pool_slot AS slot WHERE NOT EXISTS (
      SELECT FROM connections_pool_lease WHERE lease_id = slot.lease_id);
    UPDATE connections_pool_lease AS lease SET used = (
      SELECT count(*) FROM connections_pool_slot
      WHERE lease_id = lease.lease_id AND taken_for = '');
    UPDATE connections_pool_lease SET granted = used;
    PERFORM pg_notify(p_channels || 'all',
      json_build_object('kind', 'recovering', 'lost', lost)::text);
  END IF;
END $$;

-- Forget slots and tombstones; of one client, or of all (null). Their leases are locked.
CREATE FUNCTION connections_pool_forget_1(p_ids text[], p_client text) RETURNS void
LANGUAGE sql AS $$
  WITH gone AS (
    DELETE FROM connections_pool_slot
    WHERE connection_id = ANY(p_ids) AND client_id = coalesce(p_client, client_id)
    RETURNING lease_id, taken_for
  )
  UPDATE connections_pool_lease AS lease SET used = used - size
  FROM (SELECT lease_id, count(*) AS size FROM gone WHERE taken_for = '' GROUP BY lease_id)
    AS released
  WHERE lease.lease_id = released.lease_id
$$;

-- Take a slot for a connection. The first row has the status: "ok", followed by a row
-- for each slot taken away; or "prepare", if something else is due first; or "total",
-- if the total has to be locked; or a status of steps.Answer.
CREATE FUNCTION connections_pool_acquire_1(
  p_lease interval, p_max integer, p_channels text, p_evicts boolean,
  p_id text, p_client text, p_node text, p_opened double precision, p_limit integer,
  p_replaces text, p_own_count integer, p_has_reported boolean, p_releasing text[],
  p_locks_total boolean)
RETURNS TABLE (status text, connection_id text, opened_at double precision,
  slot_limit integer, node_id text)
LANGUAGE plpgsql SET lock_timeout TO '900ms' AS $$
#variable_conflict use_column
DECLARE
  own connections_pool_lease;
  slots text[];
  leases bigint[];
  excess integer;
  replaced text;
  evicted text[] := '{}';
  known text;
  recovers boolean;
BEGIN
  PERFORM connections_pool_lock_clients_1(ARRAY[p_client]);
  IF p_locks_total THEN
    PERFORM connections_pool_lock_total_1();
  END IF;
  SELECT array_agg(DISTINCT slot.lease_id) INTO leases FROM connections_pool_slot AS slot
  WHERE client_id = p_client AND taken_for = '';
  PERFORM 1 FROM connections_pool_lease AS lease
  WHERE lease.node_id = p_node OR lease_id = ANY(leases) ORDER BY lease_id FOR UPDATE;
  SELECT * INTO own FROM connections_pool_lease AS lease WHERE lease.node_id = p_node;
  IF own IS NULL OR NOT EXISTS (SELECT FROM connections_pool_state) OR EXISTS (
    SELECT FROM connections_pool_lease WHERE expires_at <= clock_timestamp())
  THEN
    RETURN QUERY SELECT 'prepare', NULL, NULL::float8, NULL::integer, NULL;
    RETURN;
  END IF;
  recovers := connections_pool_is_recovering_1(p_lease);
  IF cardinality(p_releasing) > 0 THEN
    PERFORM connections_pool_forget_1(p_releasing, p_client);
    SELECT * INTO own FROM connections_pool_lease AS lease WHERE lease.node_id = p_node;
  END IF;

  -- This call repeats one whose reply was lost.
  SELECT taken_for INTO known FROM connections_pool_slot AS slot
  WHERE slot.connection_id = p_id;
  IF known IS NOT NULL THEN
    RETURN QUERY SELECT CASE known WHEN '' THEN 'ok' ELSE known END,
      NULL, NULL::float8, NULL::integer, NULL;
    RETURN;
  END IF;
  IF recovers AND NOT p_has_reported THEN
    RETURN QUERY SELECT 'tell', NULL, NULL::float8, NULL::integer, NULL;
    RETURN;
  END IF;

  -- Decide first, so that no slot is evicted for a connection that is then refused.
  SELECT coalesce(array_agg(slot.connection_id ORDER BY slot.opened_at, slot.connection_id),
    '{}') INTO slots FROM connections_pool_slot AS slot
  WHERE client_id = p_client AND taken_for = '';
  IF p_replaces = ANY(slots) THEN
    replaced := p_replaces;
  END IF;
  slots := array_remove(slots, replaced);
  excess := cardinality(slots) + 1 - p_limit;
  IF excess > 0 AND NOT p_evicts THEN
    RETURN QUERY SELECT 'client_full', NULL, NULL::float8, NULL::integer, NULL;
    RETURN;
  END IF;
  IF excess <= 0 AND replaced IS NULL AND (recovers OR own.used >= own.granted) THEN
    IF NOT p_locks_total THEN
      RETURN QUERY SELECT 'total', NULL, NULL::float8, NULL::integer, NULL;
      RETURN;
    END IF;
    IF NOT connections_pool_grant_1(own.lease_id, p_max,
      CASE WHEN recovers THEN p_own_count ELSE 0 END)
    THEN
      RETURN QUERY SELECT 'full', NULL, NULL::float8, NULL::integer, NULL;
      RETURN;
    END IF;
  END IF;

  IF excess > 0 THEN
    evicted := slots[1:excess];
  END IF;
  RETURN QUERY SELECT 'ok', NULL, NULL::float8, NULL::integer, NULL;
  RETURN QUERY SELECT 'ok', slot.connection_id, slot.opened_at, slot.slot_limit, slot.node_id
    FROM connections_pool_slot AS slot
    WHERE slot.connection_id = ANY(evicted || replaced) AND taken_for = ''
    ORDER BY slot.opened_at, slot.connection_id;
  PERFORM connections_pool_take_away_1(
    ARRAY[replaced], 'replaced', own.lease_id, p_channels, p_node);
  PERFORM connections_pool_take_away_1(
    evicted, 'evicted', own.lease_id, p_channels, p_node);
  INSERT INTO connections_pool_slot (
    connection_id, lease_id, client_id, node_id, opened_at, slot_limit, since)
  VALUES (p_id, own.lease_id, p_client, p_node, p_opened, p_limit, clock_timestamp());
  UPDATE connections_pool_lease SET used = used + 1 WHERE lease_id = own.lease_id;
END $$;

CREATE FUNCTION connections_pool_release_1(p_ids text[]) RETURNS void
LANGUAGE plpgsql SET lock_timeout TO '900ms' AS $$
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  PERFORM 1 FROM connections_pool_lease WHERE lease_id IN (
    SELECT lease_id FROM connections_pool_slot WHERE connection_id = ANY(p_ids)
  ) ORDER BY lease_id FOR UPDATE;
  PERFORM connections_pool_forget_1(p_ids, NULL);
END $$;

-- Renew a node's lease, and release slots that it has not known for a lease. Returns
-- the ids without a slot and why: evicted, replaced or missing; or "prepare"; or
-- "recover", if rows of slots have been lost.
CREATE FUNCTION connections_pool_renew_1(
  p_lease interval, p_node text, p_ids text[], p_known text[])
RETURNS TABLE (connection_id text, reason text)
LANGUAGE plpgsql SET lock_timeout TO '900ms' AS $$
#variable_conflict use_column
DECLARE
  own bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  UPDATE connections_pool_lease SET expires_at = clock_timestamp() + p_lease
  WHERE node_id = p_node AND expires_at > clock_timestamp() RETURNING lease_id INTO own;
  IF own IS NULL OR NOT EXISTS (SELECT FROM connections_pool_state) OR EXISTS (
    SELECT FROM connections_pool_lease WHERE expires_at <= clock_timestamp()
    OR expires_at > clock_timestamp() + 2 * p_lease)
  THEN
    RETURN QUERY SELECT NULL, 'prepare';
    RETURN;
  END IF;
  PERFORM connections_pool_forget_1(array_agg(slot.connection_id), NULL)
  FROM connections_pool_slot AS slot
  WHERE lease_id = own AND since < clock_timestamp() - p_lease AND NOT EXISTS (
    SELECT FROM unnest(p_known) AS known WHERE known = slot.connection_id);
  IF (SELECT used FROM connections_pool_lease WHERE lease_id = own) > (
    SELECT count(*) FROM connections_pool_slot WHERE lease_id = own AND taken_for = '')
  THEN
    RETURN QUERY SELECT NULL, 'recover';
    RETURN;
  END IF;
  RETURN QUERY SELECT id, coalesce(slot.taken_for, 'missing')
    FROM unnest(p_ids) AS id
    LEFT JOIN connections_pool_slot AS slot ON slot.connection_id = id
    WHERE slot.connection_id IS NULL OR slot.taken_for <> '';
END $$;

-- Take slots that a node has and the pool may not know, as PoolSteps.retake()
-- says. Returns those that were not taken, and why; or "prepare".
CREATE FUNCTION connections_pool_retake_1(
  p_lease interval, p_max integer, p_channels text, p_node text, p_is_late boolean,
  p_ids text[], p_clients text[], p_opened double precision[], p_limits integer[])
RETURNS TABLE (connection_id text, reason text)
LANGUAGE plpgsql SET lock_timeout TO '900ms' AS $$
#variable_conflict use_column
DECLARE
  own connections_pool_lease;
  known text;
  own_slots integer;
  excess integer;
  recovers boolean;
BEGIN
  PERFORM connections_pool_lock_clients_1(p_clients);
  PERFORM connections_pool_lock_total_1();
  IF NOT EXISTS (SELECT FROM connections_pool_lease WHERE node_id = p_node)
    OR NOT EXISTS (SELECT FROM connections_pool_state)
    OR EXISTS (SELECT FROM connections_pool_lease WHERE expires_at <= clock_timestamp())
  THEN
    RETURN QUERY SELECT NULL, 'prepare';
    RETURN;
  END IF;
  recovers := connections_pool_is_recovering_1(p_lease);
  FOR place IN 1 .. cardinality(p_ids) LOOP
    SELECT * INTO own FROM connections_pool_lease WHERE node_id = p_node;
    SELECT taken_for INTO known FROM connections_pool_slot AS slot
    WHERE slot.connection_id = p_ids[place];
    IF known <> '' THEN
      RETURN QUERY SELECT p_ids[place], known;
    END IF;
    CONTINUE WHEN known IS NOT NULL;
    SELECT count(*) INTO own_slots FROM connections_pool_slot
    WHERE client_id = p_clients[place] AND taken_for = '';
    excess := own_slots + 1 - p_limits[place];
    IF NOT recovers AND (
      (excess > 0 AND NOT p_is_late)
      OR (excess <= 0 AND own.used >= own.granted
        AND NOT connections_pool_grant_1(own.lease_id, p_max, 0)))
    THEN
      RETURN QUERY SELECT p_ids[place], 'lost';
      CONTINUE;
    END IF;
    INSERT INTO connections_pool_slot (
      connection_id, lease_id, client_id, node_id, opened_at, slot_limit, since)
    VALUES (p_ids[place], own.lease_id, p_clients[place], p_node, p_opened[place],
      p_limits[place], clock_timestamp());
    UPDATE connections_pool_lease SET used = used + 1 WHERE lease_id = own.lease_id;
    CONTINUE WHEN recovers OR excess <= 0;
    PERFORM connections_pool_take_away_1(array_agg(id), 'evicted', own.lease_id,
      p_channels, NULL)
    FROM (
      SELECT slot.connection_id AS id FROM connections_pool_slot AS slot
      WHERE client_id = p_clients[place] AND taken_for = ''
      ORDER BY slot.opened_at, slot.connection_id LIMIT excess
    ) AS oldest;
    RETURN QUERY SELECT slot.connection_id, taken_for FROM connections_pool_slot AS slot
      WHERE slot.connection_id = p_ids[place] AND taken_for <> '';
  END LOOP;
END $$;

-- Evict what exceeds the limit of a client's newest slot. The client and all leases
-- are locked.
CREATE FUNCTION connections_pool_cap_client_1(p_client text, p_channels text)
RETURNS void LANGUAGE sql AS $$
  SELECT connections_pool_take_away_1(
    array_agg(connection_id), 'evicted', NULL, p_channels, NULL)
  FROM (
    SELECT connection_id,
      row_number() OVER newest_first > first_value(slot_limit) OVER newest_first
        AS is_excess
    FROM connections_pool_slot WHERE client_id = p_client AND taken_for = ''
    WINDOW newest_first AS (ORDER BY opened_at DESC, connection_id DESC)
  ) AS ranked WHERE is_excess
$$;

-- Evict a part of what exceeds the clients' limits, then of what exceeds the total,
-- oldest first; end the recovery once no excess is left.
CREATE FUNCTION connections_pool_settle_1(
  p_lease interval, p_max integer, p_channels text) RETURNS void
LANGUAGE plpgsql SET lock_timeout TO '900ms' AS $$
DECLARE
  most CONSTANT integer := 50;
  clients text[];
  excess integer;
  client text;
  exceeds boolean;
BEGIN
  SELECT array_agg(client_id) INTO clients FROM (
    SELECT client_id FROM connections_pool_slot WHERE taken_for = '' GROUP BY client_id
    HAVING count(*) > (array_agg(slot_limit ORDER BY opened_at DESC))[1] LIMIT most
  ) AS over;
  exceeds := clients IS NOT NULL;
  IF NOT exceeds THEN
    SELECT array_agg(DISTINCT client_id) INTO clients FROM (
      SELECT client_id FROM connections_pool_slot WHERE taken_for = ''
      ORDER BY opened_at, connection_id LIMIT most
    ) AS oldest;
  END IF;
  PERFORM connections_pool_lock_clients_1(clients);
  PERFORM connections_pool_lock_total_1();
  IF connections_pool_is_recovering_1(p_lease) THEN
    RETURN;
  END IF;
  IF exceeds THEN
    FOREACH client IN ARRAY clients LOOP
      PERFORM connections_pool_cap_client_1(client, p_channels);
    END LOOP;
    RETURN;
  END IF;
  SELECT sum(used) - p_max INTO excess FROM connections_pool_lease;
  IF excess > 0 THEN
    PERFORM connections_pool_take_away_1(array_agg(connection_id), 'evicted', NULL,
      p_channels, NULL)
    FROM (
      SELECT connection_id FROM connections_pool_slot
      WHERE taken_for = '' AND client_id = ANY(clients)
      ORDER BY opened_at, connection_id LIMIT least(excess, most)
    ) AS oldest;
    RETURN;
  END IF;
  UPDATE connections_pool_lease SET granted = used;
  UPDATE connections_pool_state SET recovering_until = NULL;
END $$;

-- Return the slots, the clients, the state, and "rows" if slots have been lost.
CREATE FUNCTION connections_pool_usage_1(p_lease interval)
RETURNS TABLE (slots bigint, clients bigint, state text, lost text)
LANGUAGE plpgsql AS $$
DECLARE
  used_slots bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  DELETE FROM connections_pool_slot
  WHERE taken_for <> '' AND since < clock_timestamp() - 2 * p_lease;
  SELECT count(slot.connection_id), count(DISTINCT client_id),
    (SELECT coalesce(sum(used), 0) FROM connections_pool_lease)
  INTO slots, clients, used_slots
  FROM connections_pool_slot AS slot WHERE taken_for = '';
  state := CASE
    WHEN connections_pool_is_recovering_1(p_lease) THEN 'recovering'
    WHEN EXISTS (SELECT FROM connections_pool_state WHERE recovering_until IS NOT NULL)
      THEN 'settling'
    ELSE 'exact' END;
  lost := CASE
    WHEN NOT EXISTS (SELECT FROM connections_pool_state) THEN 'all slots'
    WHEN slots <> used_slots THEN 'some slots'
    ELSE '' END;
  RETURN NEXT;
END $$;

-- Release all slots of a node that stops, and its lease.
CREATE FUNCTION connections_pool_leave_1(p_node text) RETURNS void
LANGUAGE plpgsql SET lock_timeout TO '900ms' AS $$
DECLARE
  own bigint;
BEGIN
  DELETE FROM connections_pool_lease WHERE node_id = p_node RETURNING lease_id INTO own;
  DELETE FROM connections_pool_slot WHERE lease_id = own AND taken_for = '';
END $$;
