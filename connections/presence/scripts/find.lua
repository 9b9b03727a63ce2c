-- room, then members: return {1, member, ...} of those present, or {0} if that is not
-- known.

if not knows_all() then
  return {0}
end
local answer, members = {1}, PREFIX .. 'room:' .. ARGV[5]
for index = 6, #ARGV do
  local entry = call('HGET', members, ARGV[index])
  if entry and is_present(entry) then
    table.insert(answer, ARGV[index])
  end
end
return answer
