-- limits.lua - limits as all gateways share them: run by Redis, one call at a time, so that nothing comes between a
-- look and what follows from it. limiter.c says what is asked; keys/meters.h says what limits mean, here as there.
-- KEYS : the set of gateways, then a key for each subject of a request (a key, a tenant, a model, an address).
-- ARGV : what to do, who asks, how long a gateway counts as alive without a word (µs), the month; then WIDE numbers for
--        each subject, in the order of `subject` below. A limit of 0 is none.
-- beat   : I am alive. The answer is how many are.
-- enter  : one request of each subject, or of none. A token must be left, and a place among those in flight.
-- prompt : the tokens of its prompt, all or none.
-- charge : what was used already, and how many are in flight now: never refused. Tokens below 0 are given back.
-- A bucket is one number: when it will be full, in µs of Redis's own clock. Limits are numbered as limits.def's rows.
local WIDE, SECOND, MINUTE = 9, 1e6, 6e7
local PER_SECOND, PER_MINUTE, TOKENS, CONCURRENT, BUDGET = 0, 2, 3, 4, 5
local RATE_LIMITED, OVER_BUDGET = 1, 2
local DAY_MS = 86400000

local clock = redis.call('TIME')
local now = (clock[1] - 1700000000) * 1e6 + clock[2] -- small enough for fractions
local gateways, what, me, alive_us, month = KEYS[1], ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4]

if what == 'beat' then
  redis.call('ZREMRANGEBYSCORE', gateways, '-inf', now)
  redis.call('ZADD', gateways, now + alive_us, me)
  return redis.call('ZCARD', gateways)
end

-- Buckets.

local function bucket(field, n, period, burst, most_us)
  if n == 0 then return nil end
  return {field = field, each = period / n, burst = burst, most = burst * period / n + most_us}
end

-- A clock that was set back, a limit that was changed, or somebody else's hand in our keys must not shut anybody out.
local function load(b, text)
  b.full = tonumber(text)
  if not b.full or not (b.full > now) then b.full = now end
  if b.full > now + b.most then b.full = now + b.most end
end

local function wait_us(b, n)
  local us = b.full - now - (b.burst - math.min(n, b.burst)) * b.each
  return us > 0.5 and math.ceil(us) or 0
end

local function draw(b, n)
  b.full = math.max(b.full + n * b.each, now)
  b.drawn = true
end

local function left(b) return math.max(0, math.floor(b.burst - (b.full - now) / b.each + 1e-6)) end

-- Subjects.

local function in_flight_elsewhere(s)
  local list, n = redis.call('HGETALL', s.key .. ':f'), 0
  for i = 1, #list, 2 do
    local until_us = tonumber(redis.call('ZSCORE', gateways, list[i]) or 0)
    if until_us <= now then s.dead[#s.dead + 1] = list[i]
    elseif list[i] ~= me then n = n + (tonumber(list[i + 1]) or 0) end
  end
  return n
end

local function subject(i)
  local function arg(k) return tonumber(ARGV[4 + (i - 1) * WIDE + k]) end
  local burst = arg(2) > 0 and arg(2) or math.max(math.floor(arg(1) / 2), 1)
  local s = {
    key = KEYS[i + 1], index = i - 1, dead = {},
    second = bucket('s', arg(1), SECOND, burst, 0),
    minute = bucket('m', arg(3), MINUTE, arg(3), 0),
    tokens = bucket('t', arg(4), MINUTE, arg(4), DAY_MS * 1e3),
    concurrent = arg(5), budget = arg(6), n = arg(7), mine = arg(8),
  }
  local has = redis.call('HMGET', s.key, 's', 'm', 't')
  if s.second then load(s.second, has[1]) end
  if s.minute then load(s.minute, has[2]) end
  if s.tokens then load(s.tokens, has[3]) end
  if s.budget > 0 then
    -- Where Redis has lost it, or never knew, the month goes on from what the gateway knows.
    s.used = tonumber(redis.call('GET', s.key .. ':' .. month)) or arg(9)
  end
  if s.concurrent > 0 and what == 'enter' then s.others = in_flight_elsewhere(s) end
  return s
end

local list = {}
for i = 1, #KEYS - 1 do list[i] = subject(i) end

-- The longest wait is told: sooner it would be refused again. A budget lasts longest.
local why
local function refuse(s, limit, us, never)
  local budget = limit == BUDGET
  if not why or budget or (why.rc ~= OVER_BUDGET and (never or us > why.us)) then
    why = {rc = budget and OVER_BUDGET or RATE_LIMITED, subject = s.index, limit = limit, us = us,
           never = never and 1 or 0}
  end
end

local function look(s, b, limit, n)
  local us = b and wait_us(b, n) or 0
  local never = b and n > b.burst
  if us > 0 or never then refuse(s, limit, us, never) end
end

for _, s in ipairs(list) do
  if what == 'enter' then
    look(s, s.second, PER_SECOND, 1)
    look(s, s.minute, PER_MINUTE, 1)
    look(s, s.tokens, TOKENS, 1)
    if s.others and s.others + s.mine > s.concurrent then refuse(s, CONCURRENT, 0) end
    if s.used and s.used >= s.budget then refuse(s, BUDGET, 0) end
  elseif what == 'prompt' then
    look(s, s.tokens, TOKENS, s.n)
    if s.used and (s.used >= s.budget or s.used + s.n > s.budget) then refuse(s, BUDGET, 0) end
  end
end

-- Everything was read; from here on it is written.

local function store(s)
  local fields, full = {}, now
  for _, b in pairs({s.second or false, s.minute or false, s.tokens or false}) do
    if b and b.drawn then
      fields[#fields + 1] = b.field
      fields[#fields + 1] = string.format('%.4f', b.full)
      full = math.max(full, b.full)
    end
  end
  if #fields == 0 then return end
  redis.call('HSET', s.key, unpack(fields))
  local ms = math.ceil((full - now) / 1e3) + 1000
  if redis.call('PTTL', s.key) < ms then redis.call('PEXPIRE', s.key, ms) end
end

local function store_flight(s)
  if #s.dead > 0 then redis.call('HDEL', s.key .. ':f', unpack(s.dead)) end
  if s.concurrent == 0 or s.mine < 0 then return end
  if s.mine == 0 then
    redis.call('HDEL', s.key .. ':f', me)
  else
    redis.call('HSET', s.key .. ':f', me, s.mine)
    redis.call('PEXPIRE', s.key .. ':f', DAY_MS)
  end
end

if not why then
  for _, s in ipairs(list) do
    if what == 'enter' then
      if s.second then draw(s.second, 1) end
      if s.minute then draw(s.minute, 1) end
    elseif s.tokens and s.n ~= 0 then
      draw(s.tokens, s.n)
    end
    if s.used and s.n ~= 0 then
      s.used = math.max(0, s.used + s.n)
      redis.call('SET', s.key .. ':' .. month, string.format('%.0f', s.used), 'PX', 40 * DAY_MS)
    end
    store(s)
    store_flight(s)
  end
end

-- The tightest of the limits of requests, and of tokens, as they are now.
local function tightest(names)
  local limit, rest, reset = 0, 0, 0
  for _, s in ipairs(list) do
    for _, name in ipairs(names) do
      local b = s[name]
      if b and (limit == 0 or left(b) / b.burst < rest / limit) then
        limit, rest, reset = b.burst, left(b), wait_us(b, b.burst)
      end
    end
  end
  return limit, rest, reset
end

local answer = {why and why.rc or 0, why and why.subject or 0, why and why.limit or 0, why and why.us or 0,
                why and why.never or 0}
for _, names in ipairs({{'second', 'minute'}, {'tokens'}}) do
  for _, v in ipairs({tightest(names)}) do answer[#answer + 1] = v end
end
for _, s in ipairs(list) do answer[#answer + 1] = s.used or 0 end
return answer
