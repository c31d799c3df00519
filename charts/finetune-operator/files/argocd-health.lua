local status = obj.status or {}
if status.observedGeneration ~= obj.metadata.generation then
  return {status = "Progressing", message = "the operator has not seen this version yet"}
end
local is, message = {}, {}
for _, condition in ipairs(status.conditions or {}) do
  is[condition.type] = condition.status == "True"
  message[condition.type] = condition.message
end
if is.Stalled then
  return {status = "Degraded", message = message.Ready}
elseif is.Suspended then
  return {status = "Suspended", message = message.Ready}
elseif is.Ready then
  -- With spec.publish, where the upload stands.
  local upload = message.Published and "; " .. message.Published or ""
  return {status = "Healthy", message = message.Ready .. upload}
end
local progress, reached = status.progress or {}, ""
-- There is a forecast only while it trains.
if progress.remaining then
  local loss = progress.loss and ", loss " .. progress.loss or ""
  reached = ": " .. progress.summary .. loss .. ", ETA " .. progress.remaining
end
return {status = "Progressing", message = message.Ready .. reached}
