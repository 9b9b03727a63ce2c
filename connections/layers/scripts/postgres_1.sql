-- The channel layer in PostgreSQL, version 1.
--
-- Messages pass through NOTIFY. Where a process cannot listen, because a pooler is
-- between, it registers as a poller, and messages are rows for it as well. The tables
-- are not logged: a crash empties both, and pollers then register again and report
-- that messages are missing.

CREATE UNLOGGED TABLE connections_layer_message (
  message_id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  channel text NOT NULL,
  payload text NOT NULL,
  sent_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE INDEX connections_layer_message_sent ON connections_layer_message (sent_at);

CREATE UNLOGGED TABLE connections_layer_poller (
  poller_id text PRIMARY KEY,
  channel text NOT NULL,
  expires_at timestamptz NOT NULL
);

-- Send messages. Each differs from the others of its statement, because NOTIFY sends
-- equal ones of a transaction once. One over 7900 bytes is a row of the bus.
CREATE FUNCTION connections_layer_publish_1(p_channel text, p_payloads text[])
RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  one text;
  number bigint;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  IF EXISTS (
    SELECT FROM connections_layer_poller
    WHERE channel = p_channel AND expires_at > clock_timestamp()
  ) THEN
    -- Held until the commit, so that ids become visible in their order.
    PERFORM pg_advisory_xact_lock(hashtextextended('orchestra layer', 0));
    INSERT INTO connections_layer_message (channel, payload)
      SELECT p_channel, payload FROM unnest(p_payloads) AS payload;
    DELETE FROM connections_layer_message
      WHERE sent_at < clock_timestamp() - interval '1 minute';
  END IF;
  FOREACH one IN ARRAY p_payloads LOOP
    IF octet_length(one) > 7900 THEN
      INSERT INTO connections_bus_message (payload) VALUES (one)
        RETURNING message_id INTO number;
      one := number::text;
    END IF;
    PERFORM pg_notify(p_channel, one);
  END LOOP;
  IF number IS NOT NULL THEN
    DELETE FROM connections_bus_message
      WHERE sent_at < clock_timestamp() - interval '1 minute';
  END IF;
END $$;

-- Return the messages after a position. A poller that is not registered, or no longer,
-- is registered and gets one row without a payload: messages before it are missing.
CREATE FUNCTION connections_layer_poll_1(
  p_poller text, p_channel text, p_position bigint, p_lease interval
) RETURNS TABLE (message_id bigint, payload text) LANGUAGE plpgsql AS $$
DECLARE
  ends timestamptz;
BEGIN
  PERFORM set_config('synchronous_commit', 'off', true);
  SELECT expires_at INTO ends FROM connections_layer_poller
    WHERE poller_id = p_poller AND expires_at > clock_timestamp();
  IF ends IS NULL THEN
    DELETE FROM connections_layer_poller WHERE expires_at < clock_timestamp();
    INSERT INTO connections_layer_poller
      VALUES (p_poller, p_channel, clock_timestamp() + p_lease)
      ON CONFLICT (poller_id) DO UPDATE SET expires_at = excluded.expires_at;
    RETURN QUERY SELECT coalesce(max(m.message_id), 0), NULL::text
      FROM connections_layer_message AS m;
    RETURN;
  END IF;
  IF ends < clock_timestamp() + p_lease / 2 THEN
    UPDATE connections_layer_poller SET expires_at = clock_timestamp() + p_lease
      WHERE poller_id = p_poller;
    DELETE FROM connections_layer_message
      WHERE sent_at < clock_timestamp() - interval '1 minute';
  END IF;
  RETURN QUERY SELECT m.message_id, m.payload FROM connections_layer_message AS m
    WHERE m.channel = p_channel AND m.message_id > p_position
    ORDER BY m.message_id LIMIT 1000;
END $$;
