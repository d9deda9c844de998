export * from './testing/storage-conformance.ts'
export * from './testing/session-store-conformance.ts'
