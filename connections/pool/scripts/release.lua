-- Release slots; an id without a slot is no error.
--
-- ARGV: lease, max_total, channels, then connection ids.

for index = 4, #ARGV do
  forget(ARGV[index])
  call('ZREM', TOMBS, 'evicted ' .. ARGV[index], 'replaced ' .. ARGV[index])
end
return #ARGV - 3
