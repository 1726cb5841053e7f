// {"query": …, "names": […]}: each value that is a text, null for one that is not there, false for any
// other.
'use strict'

const qs = require('qs')

require('./answer')(({ query, names }) => {
  const parsed = qs.parse(query)
  return names.map((name) => {
    const value = parsed[name]
    if (value === undefined) return null
    return typeof value === 'string' ? value : false
  })
})
