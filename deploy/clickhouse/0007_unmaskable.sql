-- The record of weir, version 7: recorded bodies are decoded and masked.

-- A body that could not be read was not recorded.
ALTER TABLE exchanges MODIFY COLUMN
    req_body Enum8('none' = 0, 'full' = 1, 'truncated' = 2, 'dropped' = 3, 'unmaskable' = 4);
ALTER TABLE exchanges MODIFY COLUMN
    resp_body Enum8('none' = 0, 'full' = 1, 'truncated' = 2, 'dropped' = 3, 'unmaskable' = 4);
