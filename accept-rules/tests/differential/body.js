// {"text": …, "questions": [[path, value], …]}: null where the text is no JSON, else for each question
// what undefsafe says, and what it would say without the oddities that are named beside it.
'use strict'

const undefsafe = require('undefsafe')

require('./answer')(({ text, questions }) => {
  JSON.parse(text)
  return questions.map(([path, value]) => ask(text, path, value))
})

function ask (text, path, value) {
  const oddities = new Set()
  const steps = path.split('.')
  const exact = reached(JSON.parse(text), steps, oddities).includes(value)
  // Without an asterisk the package sets the value that it is given, so it is asked for what it reads.
  const star = steps.includes('*')
  const body = JSON.parse(text)
  let odd = false
  try {
    odd = undefsafe(body, path, ...(star ? [value] : [])) === value
  } catch (error) {
    oddities.add('throws')
  }
  if (star && !value) oddities.add('falsy')
  return { odd, exact, oddities: [...oddities] }
}

function reached (value, steps, oddities) {
  if (steps.length === 0) return [value]
  const [step, ...rest] = steps
  if (typeof value !== 'object' || value === null) {
    if (value !== null) oddities.add('scalar')
    return []
  }
  if (step === '*') return Object.values(value).flatMap((member) => reached(member, rest, oddities))
  if (Array.isArray(value) && step === 'length') {
    oddities.add('length')
    return []
  }
  return Object.hasOwn(value, step) ? reached(value[step], rest, oddities) : []
}
