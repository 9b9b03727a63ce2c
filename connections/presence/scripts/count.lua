-- room: return {1, number of those present}, or {0} if that is not known.

if not knows_all() then
  return {0}
end
local members, past = PREFIX .. 'room:' .. ARGV[5], as_integer(now)
if call('ZCOUNT', NODES, '-inf', past) == 0 and call('ZCOUNT', DUE, '-inf', past) == 0 then
  return {1, call('HLEN', members)}
end
local count, entries = 0, call('HVALS', members)
for _, entry in ipairs(entries) do
  if is_present(entry) then
    count = count + 1
  end
end
return {1, count}
