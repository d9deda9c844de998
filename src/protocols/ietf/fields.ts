/**
 * Structured fields (RFC 9651) as this protocol reads them: a field that is malformed, or of another type than it should
 * be, counts as missing. Parameters are legal everywhere and mean nothing. Pure.
 */
import type { IncomingMessage } from 'node:http'
import { type Dictionary, parseDictionary, parseItem, serializeBoolean, serializeDictionary } from 'structured-headers'

/** What an Integer can hold: 15 digits. */
const maxInteger = 999_999_999_999_999

/** The value of a request header; lines of the same name come joined by a comma. */
export function headerOf(request: IncomingMessage, name: string): string | undefined {
  const value = request.headers[name.toLowerCase()]
  return Array.isArray(value) ? value.join(', ') : value
}

/** A non-negative Integer. */
export function integerOf(value: string | undefined): number | undefined {
  const item = itemOf(value)
  if (typeof item !== 'number' || item < 0) return undefined
  // The parser gives the same number for `1` and for the Decimal `1.0`; only the text tells them apart. `-0` is zero.
  return /^ *-?\d+ *(;|$)/.test(value ?? '') ? Math.abs(item) : undefined
}

/** A Boolean: `?1` or `?0`. */
export function booleanOf(value: string | undefined): boolean | undefined {
  const item = itemOf(value)
  return typeof item === 'boolean' ? item : undefined
}

/** A Dictionary; `undefined` for what is none, and for an empty one. */
export function dictionaryOf(value: string | undefined): Dictionary | undefined {
  if (value === undefined) return undefined
  try {
    const dictionary = parseDictionary(value)
    return dictionary.size === 0 ? undefined : dictionary
  } catch {
    return undefined
  }
}

function itemOf(value: string | undefined): unknown {
  if (value === undefined) return undefined
  try {
    return parseItem(value)[0]
  } catch {
    return undefined
  }
}

export const booleanField = serializeBoolean

/** A Dictionary of Integers. Numbers that an Integer cannot hold (`Infinity` for no limit) are left out. */
export function integersField(members: Readonly<Record<string, number>>): string {
  const fitting = Object.entries(members).filter(([, value]) => value <= maxInteger)
  return serializeDictionary(Object.fromEntries(fitting))
}
