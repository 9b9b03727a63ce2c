-- node, held, recover_ms: renew a lease, release the members of nodes without one,
-- and end lingers. Return {status, generation, 1 if work is left, members of ONLINE}.

local node, held, recover_ms = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])

if not generation then
  generation = time[1] .. '.' .. time[2]
  call('HSET', STATE, 'generation', generation, 'format', FORMAT,
       'recovering_until', as_integer(now + recover_ms))
end

local is_known = lease_of(node) > now and call('SCARD', PREFIX .. 'held:' .. node) == held
call('ZADD', NODES, as_integer(now + lease_ms), node)

-- Shorten what ends later than possible: the clock of Redis went back since. Leases and
-- lingers of up to twice this node's length stay, for nodes may differ in theirs.
local function cap(key, longest_ms)
  local late = call('ZRANGEBYSCORE', key, '(' .. as_integer(now + 2 * longest_ms), '+inf',
                    'LIMIT', 0, CAPPED_AT_ONCE)
  for _, one in ipairs(late) do
    call('ZADD', key, as_integer(now + longest_ms), one)
  end
end
cap(NODES, lease_ms)
cap(DUE, linger_ms)

-- Redis may have been out of reach of all nodes, and this one is the first to return:
-- the leases of the others end now, so that they return within a linger.
if lease_of(node) <= now then
  local ended = call('ZRANGEBYSCORE', NODES, '-inf', as_integer(now), 'LIMIT', 0,
                     CAPPED_AT_ONCE)
  for _, one in ipairs(ended) do
    call('ZADD', NODES, as_integer(now), one)
  end
end

local is_more = 0

for _, dead in ipairs(call('ZRANGEBYSCORE', NODES, '-inf', as_integer(now), 'LIMIT', 0, 1)) do
  local keys = call('SPOP', PREFIX .. 'held:' .. dead, RELEASED_AT_ONCE)
  for _, key in ipairs(keys) do
    let_go(dead, key, lease_of(dead))
  end
  if #keys < RELEASED_AT_ONCE then
    call('ZREM', NODES, dead)
  end
  is_more = 1
end

local ended = call('ZRANGEBYSCORE', DUE, '-inf', as_integer(now), 'LIMIT', 0, ENDED_AT_ONCE)
for _, key in ipairs(ended) do
  end_linger(key)
end
if #ended == ENDED_AT_ONCE then
  is_more = 1
end
publish()
return {is_known and 'known' or 'expired', generation, is_more,
        call('HLEN', PREFIX .. 'room:' .. ONLINE)}
