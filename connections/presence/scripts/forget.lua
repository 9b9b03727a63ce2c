-- cursor, members: end the linger of members in a part of `due`. Return the cursor of
-- the next part, or "0" after the last one.

local wanted = {}
for index = 6, #ARGV do
  wanted[ARGV[index]] = true
end
local cursor, found = unpack(call('ZSCAN', DUE, ARGV[5], 'COUNT', READ_AT_ONCE))
for index = 1, #found, 2 do
  if wanted[found[index]:match('\n(.*)$')] then
    end_linger(found[index])
  end
end
publish()
return cursor
