-- tier.lua - the cache's second tier, run by Redis, one call at a time. tier.c says what is asked.
-- find   : KEYS value, lock; ARGV who asks, ms of a lock (0: none is wanted), bytes of a value at most. The answer is
--          the value, or what came of the lock; FOREIGN is added where what is there is no value of ours.
-- put    : KEYS value, lock; ARGV who, ms to live, the value. The lock goes, if it is theirs, whatever becomes of the
--          value.
-- leave  : KEYS value, lock; ARGV who. The lock alone.
-- purges : KEYS the hash of purges, and a value to be deleted or none; ARGV who, now (ms), ms that values live at most,
--          purges that are kept, then names and times to be added. The answer is all of them.
-- Servers that only read (replicas, or full ones) still answer find and purges: what cannot be written there is left.
local TAKEN, OURS, NONE, FOREIGN = 0, 1, 2, 4
local HOUR_MS = 3600000 -- that a server's clock may be ahead
local what, me = ARGV[1], ARGV[2]

local function failed(reply) return type(reply) == 'table' and reply.err end

-- A time, of whatever somebody has written.
local function time(text)
  local n = tonumber(text)
  return n and n >= 0 and n < 1e15 and n or nil
end

local function unlock()
  if redis.pcall('GET', KEYS[2]) == me then redis.pcall('DEL', KEYS[2]) end
end

if what == 'find' then
  local n = redis.pcall('STRLEN', KEYS[1])
  local foreign = failed(n) or n > tonumber(ARGV[4])
  if not foreign and n > 0 then return redis.call('GET', KEYS[1]) end
  local fate = NONE
  if ARGV[3] ~= '0' then
    local held = redis.pcall('SET', KEYS[2], me, 'NX', 'PX', ARGV[3])
    if not held then fate = TAKEN elseif not failed(held) then fate = OURS end
  end
  return foreign and fate + FOREIGN or fate
end

if what == 'put' then
  local kept = redis.pcall('SET', KEYS[1], ARGV[4], 'PX', ARGV[3])
  unlock()
  return kept
end

if what == 'leave' then
  unlock()
  return 0
end

-- purges
local purged, now, keep, most = KEYS[1], tonumber(ARGV[3]), tonumber(ARGV[4]), tonumber(ARGV[5])
if KEYS[2] then redis.pcall('DEL', KEYS[2]) end
if failed(redis.pcall('HLEN', purged)) then redis.pcall('DEL', purged) end
for i = 6, #ARGV, 2 do
  local was = time(redis.pcall('HGET', purged, ARGV[i])) or 0
  if was < tonumber(ARGV[i + 1]) then redis.pcall('HSET', purged, ARGV[i], ARGV[i + 1]) end
  redis.pcall('PEXPIRE', purged, keep)
end
local list = redis.pcall('HGETALL', purged)
if failed(list) then return '' end

-- Too many: the older half becomes one purge of all that was made until then.
local cut = now - keep
if #list / 2 > most then
  local times = {}
  for i = 2, #list, 2 do times[i / 2] = time(list[i]) or 0 end
  table.sort(times)
  cut = times[math.floor(#times / 2)]
  local was = time(redis.pcall('HGET', purged, 'all')) or 0
  if was < cut then redis.pcall('HSET', purged, 'all', string.format('%.0f', cut)) end
end
local out = {}
for i = 1, #list, 2 do
  local name, at = list[i], time(list[i + 1])
  if name ~= 'all' and (not at or at <= cut or at > now + HOUR_MS or not name:match('^[kl]%x+$')) then
    redis.pcall('HDEL', purged, name)
  elseif at then
    out[#out + 1] = name .. ' ' .. string.format('%.0f', at)
  end
end
if cut > now - keep then out[#out + 1] = 'all ' .. string.format('%.0f', cut) end
return table.concat(out, ' ')
