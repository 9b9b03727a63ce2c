-- room: return {1, member, data, ...} of those present, or {0} if that is not known.

if not knows_all() then
  return {0}
end
local answer, entries = {1}, call('HGETALL', PREFIX .. 'room:' .. ARGV[5])
for index = 1, #entries, 2 do
  if is_present(entries[index + 1]) then
    local _, _, data = parse(entries[index + 1])
    table.insert(answer, entries[index])
    table.insert(answer, data)
  end
end
return answer
