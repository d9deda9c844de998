/** The few documents of S3 that Uppy reads and writes. Pure. */
import { InvalidRequestError } from '../../errors.ts'
import type { NamedPart } from '../../types.ts'
import { inOrder } from './etags.ts'

const entities: Readonly<Record<string, string>> = { '&': '&amp;', '<': '&lt;', '>': '&gt;', '"': '&quot;' }

/** The values as elements, one after the other. */
export function elementsOf(values: Readonly<Record<string, string | number>>): string {
  return Object.entries(values)
    .map(([name, value]) => `<${name}>${String(value).replace(/[&<>"]/g, (c) => entities[c] ?? c)}</${name}>`)
    .join('')
}

/**
 * The parts that a `CompleteMultipartUpload` names, in the plain form in which Uppy writes it.
 * @throws InvalidRequestError for anything else
 */
export function partsIn(xml: string, maxParts: number): NamedPart[] {
  const parts = xml.split('<Part>').slice(1)
  if (parts.length > maxParts) throw notReadable()
  return inOrder(
    parts.map((part) => {
      const partNumber = textOf(part, 'PartNumber')
      if (!/^[1-9]\d{0,5}$/.test(partNumber)) throw notReadable()
      return { partNumber: Number(partNumber), etag: textOf(part, 'ETag').replaceAll('&quot;', '') }
    }),
  )
}

function textOf(xml: string, name: string): string {
  const from = xml.indexOf(`<${name}>`)
  const to = xml.indexOf(`</${name}>`)
  if (from < 0 || to < from) throw notReadable()
  return xml.slice(from + name.length + 2, to)
}

function notReadable(): InvalidRequestError {
  return new InvalidRequestError('The list of parts is not readable.', { code: 'PARTS_MISMATCH' })
}
